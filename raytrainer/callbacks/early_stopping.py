"""Whether early stopping has ended the run that a checkpoint is of.

Such a run stays ended when it is resumed: a job that is submitted again and again would otherwise train on each time,
until its next evaluation. What counts is the patience that applies now, so raising it lets the run go on. Other
callbacks that stop a run (at the end of a time slot, say) leave no trace of why, and a run that they stopped goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import EarlyStoppingCallback

from raytrainer.callbacks.saved_states import CONTROL_NAME, matched_states


def ended_by(callbacks: Sequence[object], states: Mapping[str, Any]) -> EarlyStoppingCallback | None:
    """The early stopping that has ended a run; None if the run may go on.

    Args:
        callbacks: Those of the run that goes on, restored if they are to be.
        states: ``TrainerState.stateful_callbacks`` of the checkpoint.
    """
    control: Mapping[str, Any] = states.get(CONTROL_NAME, {}).get("args", {})
    if not control.get("should_training_stop", True):
        return None
    for callback, state in matched_states(callbacks, states):
        if not isinstance(callback, EarlyStoppingCallback):
            continue
        counter = state.get("attributes", {}).get("early_stopping_patience_counter", 0)
        if counter >= callback.early_stopping_patience:
            return callback
    return None
