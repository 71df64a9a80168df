"""How states of callbacks get into ``trainer_state.json``, and back into callbacks.

The format is that of transformers: class name -> ``{"args": ..., "attributes": ...}``, or a list of those in order
when several callbacks have the same class. It is rebuilt for every checkpoint. (transformers appends to the list of an
earlier save, so that two early stoppings come back with the states that they had when training began.)

A restored callback keeps its identity and its place in the list: users chose the order of callbacks, and references to
a callback stay valid.

Nothing here decides whether to restore. Resuming does so if ``restore_callback_states_from_checkpoint`` is set; a
restart after a failure always does, otherwise a killed worker would change the result.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from transformers.trainer_callback import ExportableState, TrainerControl

from raytrainer.callbacks.handler import CONTROL_FLAGS, CallbackHandler
from raytrainer.errors import CheckpointError

logger = logging.getLogger(__name__)

CONTROL_NAME = TrainerControl.__name__

CallbackStates = dict[str, Any]
"""``TrainerState.stateful_callbacks``: class name -> one state, or a list of states."""


def export_states(callbacks: Sequence[object], control: TrainerControl) -> CallbackStates:
    """Collect the states of all callbacks that are ``ExportableState``, and of the control.

    Args:
        callbacks: The callbacks in their order.
        control: The control as it is right now.

    Returns:
        A fresh copy in plain JSON values, for ``TrainerState.stateful_callbacks``.

    Raises:
        TypeError: If a state cannot be written as JSON; the message names the callback.
    """
    collected: dict[str, list[Any]] = {}
    for exportable in (*callbacks, control):
        if not isinstance(exportable, ExportableState):
            continue
        name = type(exportable).__name__
        collected.setdefault(name, []).append(_plain(cast("Any", exportable).state(), name))
    return {name: found[0] if len(found) == 1 else found for name, found in collected.items()}


def restore_states(
    handler: CallbackHandler, control: TrainerControl, states: Mapping[str, Any] | None
) -> TrainerControl:
    """Restore callbacks and control from the states that ``export_states`` (or transformers) wrote.

    Callbacks are matched by class name, several of one class in order. Those without a saved state stay as they
    are; saved states without a callback are reported in one warning.

    Args:
        handler: Holds the callbacks of this run; they are changed in place.
        control: The control of this run, changed in place.
        states: ``TrainerState.stateful_callbacks`` of the checkpoint.

    Returns:
        ``control`` with the saved flags. ``on_train_begin`` and ``on_epoch_begin`` reset two of them; a restarted
        attempt that must not train on after a stop sets them again.

    Raises:
        CheckpointError: If a callback cannot be rebuilt from its saved state.
    """
    present = {
        type(callback).__name__ for callback in handler.callbacks if isinstance(callback, ExportableState)
    }
    without_callback = [name for name in states or {} if name != CONTROL_NAME and name not in present]
    for callback, state in matched_states(handler.callbacks, states or {}):
        _restore(callback, state)
    if without_callback:
        logger.warning(
            "The checkpoint has states of callbacks that this run does not have; they are ignored: %s.",
            ", ".join(without_callback),
        )
    for flag, value in (states or {}).get(CONTROL_NAME, {}).get("args", {}).items():
        if flag in CONTROL_FLAGS:
            setattr(control, flag, bool(value))
    return control


def matched_states(
    callbacks: Sequence[object], states: Mapping[str, Any]
) -> list[tuple[ExportableState, Mapping[str, Any]]]:
    """Callbacks with their saved states: by class name, several of one class in order.

    Args:
        callbacks: Those of this run.
        states: ``TrainerState.stateful_callbacks`` of a checkpoint.
    """
    matched: list[tuple[ExportableState, Mapping[str, Any]]] = []
    for name, saved in states.items():
        if name == CONTROL_NAME:
            continue
        same = [one for one in callbacks if isinstance(one, ExportableState) and type(one).__name__ == name]
        matched += zip(same, cast("list[Any]", saved if isinstance(saved, list) else [saved]), strict=False)
    return matched


def describe_states(matched: Sequence[tuple[ExportableState, Mapping[str, Any]]]) -> str:
    """Callbacks and what was saved of them, in a few words."""
    return "; ".join(
        f"{type(callback).__name__} ({', '.join(f'{name}={value!r}' for name, value in _values(state).items())})"
        for callback, state in matched
    )


def differing_states(
    callbacks: Sequence[object], states: Mapping[str, Any]
) -> list[tuple[ExportableState, Mapping[str, Any]]]:
    """The callbacks of a run whose state is not the saved one, each with what was saved.

    Args:
        callbacks: Those of this run.
        states: ``TrainerState.stateful_callbacks`` of a checkpoint.
    """
    return [
        (callback, state)
        for callback, state in matched_states(callbacks, states)
        if _values(_plain(cast("Any", callback).state(), type(callback).__name__)) != _values(state)
    ]


def _values(state: Mapping[str, Any]) -> dict[str, Any]:
    return {**state.get("args", {}), **state.get("attributes", {})}


def _restore(callback: ExportableState, state: Mapping[str, Any]) -> None:
    """Rebuild a callback with its own ``from_state``, then copy the attributes of the rebuilt one."""
    complete = {"args": state.get("args", {}), "attributes": state.get("attributes", {})}
    try:
        rebuilt = cast("object", cast("Any", type(callback)).from_state(complete))
    except Exception as error:
        raise CheckpointError(
            f"The callback {type(callback).__qualname__} cannot be rebuilt from its state in the checkpoint "
            f"({type(error).__name__}: {error}). Expected that its constructor takes {sorted(complete['args'])}. "
            "Make its `state()` and `__init__` agree, or resume without restore_callback_states_from_checkpoint."
        ) from error
    vars(callback).update(vars(rebuilt))


def _plain(state: object, name: str) -> Any:
    try:
        return json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"The state of the callback {name} cannot be written as JSON ({error}). Return only str, int, float, "
            "bool, None, lists and dicts of them from `state()`; convert tensors and numpy values with `.item()`."
        ) from error
