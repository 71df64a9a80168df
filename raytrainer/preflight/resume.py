"""Whether ``train(resume_from_checkpoint=...)`` has a whole checkpoint of this model to go on from.

Reads manifests and the headers of weight files. Which checkpoint a run takes is decided again on the workers, which
see the same directory.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import cast

from torch import nn

from raytrainer.checkpoint.model_match import check_matches_model
from raytrainer.checkpoint.scan import requested_checkpoint
from raytrainer.errors import CheckpointError, WrongTypeError
from raytrainer.loop.loop_state import read_loop_state
from raytrainer.preflight.facts import TrainerFacts
from raytrainer.storage.locations import is_uri

logger = logging.getLogger(__name__)


def check_names_a_checkpoint(requested: object) -> None:
    """Check that an argument can say what to resume from.

    Raises:
        ConfigurationError: If it cannot: a number, or a path that no file system has.
    """
    if requested is not None and not isinstance(requested, bool | str | os.PathLike):
        raise WrongTypeError(
            f"resume_from_checkpoint={requested!r} is a {type(requested).__name__}, but a path, True, 'auto' or None "
            "was expected. True goes on from the newest checkpoint in output_dir; for a certain one pass its path, "
            "for instance 'out/checkpoint-500'."
        )
    if requested is None or isinstance(requested, bool) or is_uri(str(cast("object", requested))):
        return
    path = str(cast("object", requested))
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return  # said with what is there, below
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        shown = path if len(path) <= 100 else f"{path[:100]}..."
        raise CheckpointError(
            f"resume_from_checkpoint={shown!r} cannot be opened: {reason}. Pass the path of a checkpoint, or True for "
            "the newest one in output_dir."
        ) from error


def check_resume(facts: TrainerFacts, requested: str | bool | None, directory: str) -> None:
    """Check the checkpoint that a run is to resume from.

    Args:
        facts: What the trainer was given.
        requested: The argument of ``train()``: a path, True for the newest checkpoint in ``output_dir``, "auto" for
            that one if there is one, or None or False for a run from the beginning.
        directory: Where the checkpoints of the trainer are.

    Raises:
        CheckpointError: If there is no such checkpoint, it is damaged, or it belongs to another model.
    """
    check_names_a_checkpoint(requested)
    has_weights = not facts.loads_own_weights
    if is_uri(directory) or is_uri(str(requested)):
        from raytrainer.checkpoint.remote.preview import preview

        look = preview(directory, requested, report=logger.warning, has_weights=has_weights)
    else:
        look = contextlib.nullcontext(
            requested_checkpoint(Path(directory), requested, report=logger.warning, has_weights=has_weights)
        )
    with look as checkpoint:
        if checkpoint is None:
            return
        read_loop_state(checkpoint)
        if has_weights and isinstance(facts.model, nn.Module):
            check_matches_model(checkpoint, facts.model)
