"""Whether ``train(resume_from_checkpoint=...)`` has a whole checkpoint of this model to go on from.

Reads manifests and the headers of weight files. Which checkpoint a run takes is decided again on the workers, which
see the same directory.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from torch import nn

from raytrainer.checkpoint.model_match import check_matches_model
from raytrainer.checkpoint.scan import requested_checkpoint
from raytrainer.loop.loop_state import read_loop_state
from raytrainer.preflight.facts import TrainerFacts
from raytrainer.storage.locations import is_uri

logger = logging.getLogger(__name__)


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
