"""The state of an optimizer under ZeRO, by the names of parameters: what is saved, and where it is read into.

Names and values are those of torch's flattened optimizer state (``state.<parameter>.exp_avg``,
``param_groups.<parameter>.lr``), so the other backends read them, and this one reads theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from raytrainer.layout.flat_runs import Home, groups_of, home_of
from raytrainer.layout.pieces import Piece


def state_of(model: nn.Module, zero: Any) -> tuple[dict[str, Piece], dict[str, Any]]:
    """This rank's runs of the state's tensors, and the options of every parameter.

    A number that belongs to a parameter (how many steps were taken) is a tensor without dimensions, as torch has it.
    """
    pieces: dict[str, Piece] = {}
    values: dict[str, Any] = {}
    inner = zero.optimizer
    keys, names = _state_keys(zero), _names(model)
    for group, members in zip(inner.param_groups, groups_of(zero), strict=True):
        options = {key: value for key, value in group.items() if key not in ("params", "param_group_id")}
        for parameter in members:
            name = names[parameter]
            home = home_of(parameter)
            for key, is_number in keys.items():
                pieces[f"state.{name}.{key}"] = _piece(inner, home, key, is_number=is_number)
            values |= {f"param_groups.{name}.{key}": value for key, value in options.items()}
    return pieces, values


def make_room(model: nn.Module, zero: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Give an optimizer that took no step yet the state of one that did, to be read into.

    Args:
        model: Of the optimizer.
        zero: DeepSpeed's ZeRO optimizer.
        shapes: Of the state's tensors in the files, by name; () for numbers.
    """
    names = _names(model)
    for members in groups_of(zero):
        for parameter in members:
            home = home_of(parameter)
            if home is None:
                continue
            prefix = f"state.{names[parameter]}."
            state = zero.optimizer.state[home.flat]
            for name, shape in shapes.items():
                key = name.removeprefix(prefix)
                # Names of parameters hold dots, those of state do not.
                if name.startswith(prefix) and "." not in key and key not in state:
                    state[key] = torch.zeros_like(home.flat.detach()) if shape else torch.zeros(())


def set_values(model: nn.Module, zero: Any, values: dict[str, Any]) -> None:
    """Set the options of the parameter groups, and give numbers the type that the optimizer keeps them in."""
    inner = zero.optimizer
    names = _names(model)
    for group, members in zip(inner.param_groups, groups_of(zero), strict=True):
        for key in [key for key in group if key not in ("params", "param_group_id")]:
            group[key] = values[f"param_groups.{names[members[0]]}.{key}"]
    if type(inner).__module__.startswith("deepspeed."):
        # Its own optimizers count steps in Python.
        for state in inner.state.values():
            state |= {key: int(value) for key, value in state.items() if _is_number(value)}


class WholeState:
    """Reads the whole state of an optimizer, as ``optimizer.pt`` has it, into one under ZeRO."""

    def __init__(self, zero: Any) -> None:
        self._zero = zero

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take this rank's runs."""
        inner = self._zero.optimizer
        groups = [group for group in state_dict["param_groups"] if group["params"]]
        numbers = [number for group in groups for number in group["params"]]
        members = [parameter for group in groups_of(self._zero) for parameter in group]
        if len(numbers) != len(members):
            raise ValueError(f"it has {len(numbers)} parameters, and this run trains {len(members)}")
        for number, parameter in zip(numbers, members, strict=True):
            home = home_of(parameter)
            if home is not None:
                _take(inner.state[home.flat], home, state_dict["state"].get(number, {}))
        for group, saved in zip(inner.param_groups, groups, strict=True):
            group |= {key: saved[key] for key in group if key in saved and key != "params"}


def _take(kept: dict[str, Any], home: Home, saved: dict[str, Any]) -> None:
    for key, value in saved.items():
        if _is_number(value):
            kept[key] = torch.as_tensor(value, dtype=torch.float32).clone()
            continue
        if key not in kept:
            kept[key] = torch.zeros_like(home.flat.detach())
        home.part(kept[key]).copy_(value.reshape(-1).narrow(0, home.start, home.numel))


def _state_keys(zero: Any) -> dict[str, bool]:
    """The keys of the optimizer's state, and whether each is a number."""
    for state in zero.optimizer.state.values():
        if state:
            return {
                key: _is_number(value)
                for key, value in state.items()
                if isinstance(value, torch.Tensor | int | float)
            }
    return {}


def _piece(inner: Any, home: Home | None, key: str, *, is_number: bool) -> Piece:
    if home is None:
        return Piece(values=torch.zeros(0), is_copy=True)
    value = inner.state[home.flat][key]
    if not is_number:
        return Piece(values=home.part(value), start=home.start)
    # The owner of the first element writes the number; the others have it too. All parameters of a flat share it.
    number = value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
    return Piece(values=number.detach().view(()), is_copy=home.start != 0)


def _is_number(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) or value.dim() == 0


def _names(model: nn.Module) -> dict[Any, str]:
    return {parameter: name for name, parameter in model.named_parameters()}
