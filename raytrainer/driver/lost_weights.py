"""What follows when workers end without leaving the weights that they trained.

The checkpoint of the last step has them. Where there is none, no other weights take their place unsaid.
"""

from __future__ import annotations

import logging
from pathlib import Path

from raytrainer.checkpoint.locate import readable
from raytrainer.checkpoint.model_files import load_model_weights
from raytrainer.checkpoint.names import list_checkpoints
from raytrainer.checkpoint.run_storage import storage_of
from raytrainer.errors import CheckpointError, ModelError
from raytrainer.storage.locations import is_uri
from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.worker.task_context import TaskContext

logger = logging.getLogger(__name__)


def load_trained_weights(trainer: TrainerProtocol, trained: TaskContext | None) -> bool:
    """Driver: give the model the weights that training ended with, from their checkpoint.

    Args:
        trainer: The trainer, whose workers have left nothing.
        trained: The run that they completed.

    Returns:
        Whether there is such a checkpoint; what became of the weights is said in any case.
    """
    location = None if trained is None else _checkpoint_of(trainer, trained)
    if location is None:
        logger.warning(
            "The trained weights were lost with their workers, and no checkpoint has them; trainer.model has those "
            "from before training."
        )
        return False
    load_model_weights(trainer.model, readable(location))
    logger.warning("The trained weights were lost with their workers; they are taken from %s.", location)
    return True


def _checkpoint_of(trainer: TrainerProtocol, trained: TaskContext) -> str | None:
    if trained.best_checkpoint:
        return trained.best_checkpoint
    storage = storage_of(str(trainer.args.output_dir))
    try:
        location = storage.newest(run_id=trained.trained_run_id, report=logger.warning)
    except CheckpointError as error:
        logger.warning("%s", error)
        return None
    return location if location == storage.checkpoint(trained.trained_step) else None


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
