"""Where a run is recorded by the process that shows it to people, and when its page is written.

A driver writes what it tells people beside what rank 0 writes (``telemetry.run_files``). A process that trains itself
writes both. The page of a run (``report``) is written when ``train()`` ends, also by a failure, unless
``report_page=False`` or what draws it is not installed. A trial of a sweep has none: the sweep has one.

Nothing can be appended to an object of a bucket: how its record gets there, ``telemetry.bucket_records`` says. A run in
a bucket has no page until somebody asks for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from raytrainer.storage.locations import is_uri
from raytrainer.telemetry.events import TrainEnded, TrainFailed
from raytrainer.telemetry.run_files import RunFiles, files_of_run

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments
    from raytrainer.runtimes.base import Runtime

logger = logging.getLogger(__name__)


class DriverRecords:
    """What a driver records of one call.

    Args:
        args: Say where.
        run: Names the call.
    """

    def __init__(self, args: TrainingArguments, run: Callable[[], str]) -> None:
        self._location = str(args.output_dir)
        self._wants_page = args.report_page
        self._files = files_of_run(self._location, rank=None, run=lambda: (run(), 0))

    def handle(self, event: object) -> None:
        """Take over an event; that an attempt failed is told by what follows from it."""
        if self._files is not None and not isinstance(event, TrainFailed):
            self._files.handle(event)

    def failed(self, error: BaseException) -> None:
        """The call ended with an exception."""
        if self._files is not None:
            self._files.handle(failure(error))

    def close(self, *, has_trained: bool) -> None:
        """The call is over.

        Args:
            has_trained: It was one of ``train()`` that no sweep made.
        """
        if self._files is None:
            return
        self._files.close()
        if has_trained and self._wants_page and not is_uri(self._location):
            write_page(self._location)


def recorder_here(
    args: Callable[[], TrainingArguments], runtime: Callable[[], Runtime]
) -> Callable[[object], None]:
    """What records the events of a process that trains itself.

    Args:
        args: The arguments of the trainer, whose ``output_dir`` may change between calls.
        runtime: Names the run.
    """
    files: dict[str, RunFiles] = {}

    def record(event: object) -> None:
        location = str(args().output_dir)
        if location not in files:
            made = files_of_run(location, rank=0, run=lambda: (runtime().run_id, runtime().attempt))
            if made is None:
                return
            files[location] = made
        files[location].handle(event)
        if isinstance(event, TrainEnded | TrainFailed):
            files.pop(location).close()
            if args().report_page and not is_uri(location):
                write_page(location)

    return record


def failure(error: BaseException) -> TrainFailed:
    """The event that says how a call ended."""
    ends = isinstance(error, KeyboardInterrupt | SystemExit)
    return TrainFailed(type_name=type(error).__name__, text=str(error), interrupted=ends)


def write_page(location: str) -> None:
    """Write the page of a run into its directory, if what draws it is installed. Never raises."""
    from raytrainer.report.page import PAGE_NAME, can_draw, write_report

    try:
        if can_draw():
            write_report([location], f"{location.rstrip('/')}/{PAGE_NAME}")
    except Exception as error:  # noqa: BLE001  a page is never worth a run
        logger.warning("The page of the run in %s could not be written: %s", location, error)
