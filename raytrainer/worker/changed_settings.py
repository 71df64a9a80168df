"""Which arguments of a trainer changed after it was set up in this process, and what follows from it.

On Ray the driver compares, and starts new workers. In one process and under a launcher the model is wrapped and on its
device already; what would have no effect is refused.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

from raytrainer.arguments.log_levels import apply_log_level
from raytrainer.arguments.set_up_fields import SET_UP_FIELDS, check_in_process
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.wire.fingerprint import fingerprint


def settings_of(args: TrainingArguments) -> dict[str, object]:
    """What the arguments say about how a trainer is set up, in a form that can be compared later."""
    return {name: _digest(getattr(args, name)) for name in SET_UP_FIELDS if name in vars(args)}


def follow_changes(trainer: TrainerProtocol, known: dict[str, object]) -> dict[str, object]:
    """Before a task: apply what can still be applied.

    Args:
        trainer: Set up in this process, with resolved arguments.
        known: Its settings when it was set up, or followed last.

    Returns:
        Its settings now.

    Raises:
        ConfigurationError: If one of them would have no effect.
    """
    now = settings_of(trainer.args)
    changed = {name for name, value in now.items() if known.get(name) != value}
    check_in_process(
        changed,
        checkpoints=bool(trainer.args.activation_checkpointing),
        builds_model=trainer.model_init is not None,
    )
    if changed & {"log_level", "log_level_replica"}:
        apply_log_level(trainer.args)
    return now


def _digest(value: object) -> object:
    try:
        return fingerprint(value)
    except Exception:  # noqa: BLE001 - what cannot be read is compared by identity
        return id(value)
