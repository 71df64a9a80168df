"""Where a trial goes on after its process was killed or its sweep was interrupted.

From its newest commit, unless the evaluation of that step was never reported: then from the one before, so that each
evaluation is reported, and reported once.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from raytrainer.checkpoint.names import STATE_NAME, list_checkpoints
from raytrainer.checkpoint.verify import is_ours, verify_checkpoint
from raytrainer.errors import CheckpointError

logger = logging.getLogger(__name__)

REPORTED_NAME = "reported.json"
"""In a trial's directory: the step of the last evaluation that the sweep was told."""


def resume_point(directory: Path, reported_step: int) -> Path | None:
    """The checkpoint of a trial to go on from; None if it has none.

    Args:
        directory: The trial's.
        reported_step: The step of the last evaluation that the sweep knows; -1 if there was none.
    """
    for path in reversed(list_checkpoints(directory)):
        try:
            if not is_ours(path):
                continue
            verify_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s is skipped: %s", path.name, error)
            continue
        if _last_evaluated(path) <= reported_step:
            return path
    return None


def note_reported(directory: Path, step: int) -> None:
    """Keep the step of the evaluation that the sweep is told next."""
    scratch = directory / f".{REPORTED_NAME}"
    scratch.write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")
    scratch.replace(directory / REPORTED_NAME)


def reported_step(directory: Path) -> int:
    """The step of the last evaluation that the sweep was told; -1 if there was none."""
    try:
        return int(json.loads((directory / REPORTED_NAME).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1


def _last_evaluated(checkpoint: Path) -> int:
    """The step of the last evaluation before a checkpoint was saved."""
    try:
        history: list[dict[str, Any]] = json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8"))[
            "log_history"
        ]
    except (OSError, ValueError, KeyError):
        return 0
    steps = [int(row["step"]) for row in history if any(name.startswith("eval_") for name in row)]
    return max(steps, default=-1)
