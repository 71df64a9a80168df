"""What follows when workers end without leaving the weights that they trained: no others take their place unsaid."""

from __future__ import annotations

from pathlib import Path

from raytrainer.checkpoint.names import list_checkpoints
from raytrainer.errors import CheckpointError, ModelError
from raytrainer.storage.locations import is_uri
from raytrainer.trainer_protocol import TrainerProtocol


def refuse_lost_weights(trainer: TrainerProtocol, method: str) -> None:
    """Driver: refuse what would take the weights from before training for those that were trained.

    Args:
        trainer: The trainer.
        method: What was called; ``train`` says itself what it goes on from.

    Raises:
        ModelError: If the trained weights were lost with their workers.
    """
    if method == "train" or not trainer._process.weights_are_lost:
        return
    raise ModelError(
        f"{method}() would use weights from before training: those that were trained were lost with their workers, "
        f"which a failure ended. {_what_to_do(str(trainer.args.output_dir))}"
    )


def _what_to_do(output_dir: str) -> str:
    if is_uri(output_dir):
        return (
            f"Load a checkpoint of {output_dir} into a model and set trainer.model to it, or go on from it with "
            "train(resume_from_checkpoint=True)."
        )
    try:
        checkpoints = list_checkpoints(Path(output_dir))
    except CheckpointError:
        checkpoints = []
    if not checkpoints:
        return "No checkpoint was saved, so call train() again, with save_strategy other than 'no'."
    return (
        f"Set trainer.model to a model that is loaded from {checkpoints[-1]}, or go on from it with "
        "train(resume_from_checkpoint=True)."
    )
