"""How a rank tells the user something: in its log, and from rank 0 also on the driver's terminal."""

from __future__ import annotations

import logging

from raytrainer.runtimes.base import Runtime
from raytrainer.telemetry.events import Note

logger = logging.getLogger(__name__)


def tell(runtime: Runtime, text: str, *, level: str = "warning") -> None:
    """Any rank: say something.

    Args:
        runtime: Where this rank runs.
        text: One or two sentences.
        level: "info" or "warning".
    """
    logger.log(logging.WARNING if level == "warning" else logging.INFO, text)
    if runtime.rank == 0:
        runtime.emit(Note(text=text, level=level))
