"""The state of an optimizer under ZeRO, by the names of parameters: what is saved, and where it is read into.

Names and values are those of torch's flattened optimizer state (``state.<parameter>.exp_avg``,
``param_groups.<parameter>.lr``), so the other backends read them, and this one reads theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from raytrainer.backends.zero.flat_runs import Home, counts_steps_in_python, groups_of, home_of
from raytrainer.checkpoint.safetensors_header import Shape
from raytrainer.checkpoint.sharded_state import fill_shards, read_state_shapes
from raytrainer.layout.shards import LocalShard

_NOT_OPTIONS = ("params", "param_group_id")


class ZeroState:
    """The state of a ZeRO optimizer.

    Args:
        model: Whose parameters it steps.
        zero: The ZeRO optimizer, which steps this rank's runs with an inner one.
    """

    def __init__(self, model: nn.Module, zero: Any) -> None:
        self._zero = zero
        self._inner: torch.optim.Optimizer = zero.optimizer
        self._names = {parameter: name for name, parameter in model.named_parameters()}

    def shards(self) -> tuple[dict[str, LocalShard], dict[str, Any]]:
        """This rank's runs of the state's tensors, and the options of every parameter.

        A number that belongs to a parameter (how many steps were taken) is a tensor without dimensions, as torch has
        it.
        """
        shards: dict[str, LocalShard] = {}
        values: dict[str, Any] = {}
        keys = self._state_keys()
        for group, members in self._groups():
            options = {key: value for key, value in group.items() if key not in _NOT_OPTIONS}
            for parameter in members:
                name = self._names[parameter]
                home = home_of(parameter)
                for key, is_number in keys.items():
                    shards[f"state.{name}.{key}"] = self._shard(home, key, is_number=is_number)
                values |= {f"param_groups.{name}.{key}": value for key, value in options.items()}
        return shards, values

    def restore(self, source: Path, values: dict[str, Any]) -> None:
        """All ranks: read this rank's runs of a saved state."""
        self._make_room(read_state_shapes(source))
        shards, expected = self.shards()
        self._set_options(fill_shards(source, shards, expected, values))

    def state_dict(self) -> dict[str, Any]:
        """The state of this rank, as the ZeRO optimizer keeps it."""
        return self._inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take this rank's runs out of the full state of an optimizer, as ``optimizer.pt`` has it.

        Raises:
            ValueError: If it is the state of another number of parameters.
        """
        groups: list[dict[str, Any]] = [group for group in state_dict["param_groups"] if group["params"]]
        numbers = [number for group in groups for number in group["params"]]
        members = [parameter for group in groups_of(self._zero) for parameter in group]
        if len(numbers) != len(members):
            raise ValueError(f"it has {len(numbers)} parameters, and this run trains {len(members)}")
        options = [group for group, parameters in self._groups() for _ in parameters]
        for number, parameter, group in zip(numbers, members, options, strict=True):
            home = home_of(parameter)
            if home is not None:
                saved = state_dict["state"].get(number, {})
                _take(self._inner.state[home.flat], home, saved, numbers_on=device_of_numbers(home, group))
        for group, saved in zip(self._inner.param_groups, groups, strict=True):
            group |= {key: saved[key] for key in group if key in saved and key != "params"}

    def _groups(self) -> list[tuple[dict[str, Any], list[nn.Parameter]]]:
        return list(zip(self._inner.param_groups, groups_of(self._zero), strict=True))

    def _state_keys(self) -> dict[str, bool]:
        """The keys of the optimizer's state, and whether each is a number."""
        entries: dict[str, Any]
        for entries in self._inner.state.values():
            if entries:
                return {
                    key: _is_number(value)
                    for key, value in entries.items()
                    if isinstance(value, torch.Tensor | int | float)
                }
        return {}

    def _shard(self, home: Home | None, key: str, *, is_number: bool) -> LocalShard:
        if home is None:
            return LocalShard(values=torch.zeros(0), is_copy=True)
        value: Any = self._inner.state[home.flat][key]
        if not is_number:
            return LocalShard(values=home.part(value), start=home.start)
        # The owner of the first element writes the number; the others have it too. All parameters of a flat share it.
        number = value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
        return LocalShard(values=number.detach().view(()), is_copy=home.start != 0)

    def _make_room(self, shapes: dict[str, Shape]) -> None:
        """Give an optimizer that took no step yet the state of one that did, to be read into.

        Args:
            shapes: Of the state's tensors in the files, by name; () for numbers.
        """
        for group, members in self._groups():
            for parameter in members:
                home = home_of(parameter)
                if home is None:
                    continue
                prefix = f"state.{self._names[parameter]}."
                state: dict[str, Any] = self._inner.state[home.flat]
                for name, shape in shapes.items():
                    key = name.removeprefix(prefix)
                    # Names of parameters hold dots, those of state do not.
                    if name.startswith(prefix) and "." not in key and key not in state:
                        state[key] = (
                            torch.zeros_like(home.flat.detach())
                            if shape
                            else torch.zeros((), device=device_of_numbers(home, group))
                        )

    def _set_options(self, values: dict[str, Any]) -> None:
        """Set the options of the parameter groups, and give numbers the type that the optimizer keeps them in."""
        for group, members in self._groups():
            for key in [key for key in group if key not in _NOT_OPTIONS]:
                group[key] = values[f"param_groups.{self._names[members[0]]}.{key}"]
        if counts_steps_in_python(self._inner):
            entries: dict[str, Any]
            for entries in self._inner.state.values():
                entries |= {key: int(value) for key, value in entries.items() if _is_number(value)}


def device_of_numbers(home: Home, group: dict[str, Any]) -> torch.device:
    """Where an optimizer of torch keeps what counts its steps: on a GPU if a kernel there reads it.

    Args:
        home: Of a parameter.
        group: Its parameter group.
    """
    is_read_by_kernels = bool(group.get("fused") or group.get("capturable"))
    return home.flat.device if is_read_by_kernels else torch.device("cpu")


def _take(kept: dict[str, Any], home: Home, saved: dict[str, Any], *, numbers_on: torch.device) -> None:
    for key, value in saved.items():
        if _is_number(value):
            kept[key] = torch.as_tensor(value, dtype=torch.float32, device=numbers_on).clone()
            continue
        if key not in kept:
            kept[key] = torch.zeros_like(home.flat.detach())
        home.part(kept[key]).copy_(value.reshape(-1).narrow(0, home.start, home.numel))


def _is_number(value: object) -> bool:
    return not isinstance(value, torch.Tensor) or value.dim() == 0
