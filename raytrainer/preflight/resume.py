"""Whether ``train(resume_from_checkpoint=...)`` has a whole checkpoint of this model to go on from.

Reads manifests and the headers of weight files. Which checkpoint a run takes is decided again on the workers, which
see the same directory.
"""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from raytrainer.checkpoint.model_match import check_matches_model
from raytrainer.checkpoint.scan import check_resumable, named_checkpoint, newest_checkpoint
from raytrainer.errors import CheckpointError
from raytrainer.loop.loop_state import read_loop_state
from raytrainer.preflight.facts import TrainerFacts

logger = logging.getLogger(__name__)


def check_resume(facts: TrainerFacts, requested: str | bool | None) -> None:
    """Check the checkpoint that a run is to resume from.

    Args:
        facts: What the trainer was given.
        requested: The argument of ``train()``: a path, True for the newest checkpoint in ``output_dir``, or None or
            False for a run from the beginning.

    Raises:
        CheckpointError: If there is no such checkpoint, it is damaged, or it belongs to another model.
    """
    if requested is None or requested is False:
        return
    run_dir = Path(str(facts.args.output_dir))
    if requested is True:
        checkpoint = newest_checkpoint(run_dir, report=logger.warning)
        if checkpoint is None:
            raise CheckpointError(
                f"No valid checkpoint found in output directory ({run_dir}), as resume_from_checkpoint=True asks for. "
                "Call train() without it to start from the beginning, or pass the path of a checkpoint."
            )
    else:
        checkpoint = named_checkpoint(run_dir, requested)
        check_resumable(checkpoint)
    read_loop_state(checkpoint)
    if isinstance(facts.model, nn.Module):
        check_matches_model(checkpoint, facts.model)
