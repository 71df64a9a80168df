"""How a rank tells the user something: in its log, and from rank 0 on the driver's terminal, where it stands once.

What another rank alone knows reaches the terminal through ``TrainRun.pending_notes``.
"""

from __future__ import annotations

import logging

from raytrainer.runtimes.base import Runtime
from raytrainer.telemetry.events import Note
from raytrainer.told import log_told

logger = logging.getLogger(__name__)


def tell(runtime: Runtime, text: str, *, level: str = "warning") -> None:
    """Any rank: say something, which rank 0 says too or passes on.

    Args:
        runtime: Where this rank runs.
        text: One or two sentences.
        level: "info" or "warning".
    """
    log_told(logger, text, level=logging.WARNING if level == "warning" else logging.INFO)
    if runtime.rank == 0:
        runtime.emit(Note(text=text, level=level))


def tell_for_all(runtime: Runtime, text: str) -> None:
    """All ranks: say something that each of them knows; rank 0 does, and the others do not repeat it.

    Args:
        runtime: Where this rank runs.
        text: One or two sentences.
    """
    if runtime.rank == 0:
        tell(runtime, text)
