"""What the code of checkpoints warns of while a rank trains becomes a note of the run.

That code logs, because it does not know who hears it: it runs on drivers, in the process that writes beside training,
and in commands. On rank 0 of a run people are to read it where they read everything else, and once: on the terminal of
the driver and in ``events.jsonl``, and not as a line of a worker's stderr. An error with its traceback stays a line of
the log: it is raised too, and told then.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator

from raytrainer.runtimes.base import Runtime
from raytrainer.telemetry.events import Note
from raytrainer.told import mark_told

_OF_CHECKPOINTS = "raytrainer.checkpoint"


class _Tells(logging.Handler):
    """The first handler that a record meets, so that those of a terminal see that it was told."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(logging.WARNING)
        self._runtime = runtime

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            if not logging.root.handlers and logging.lastResort is not None:
                logging.lastResort.handle(record)  # Which logging leaves out where there is any handler.
            return
        mark_told(record)
        self._runtime.emit(Note(text=record.getMessage(), level="warning"))


@contextlib.contextmanager
def warnings_as_notes(runtime: Runtime) -> Generator[None]:
    """This rank, while it trains: rank 0 tells people what the code of checkpoints warns of.

    Args:
        runtime: Where this rank runs.
    """
    if runtime.rank != 0:
        yield
        return
    logger, handler = logging.getLogger(_OF_CHECKPOINTS), _Tells(runtime)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
