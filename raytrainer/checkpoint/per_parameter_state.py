"""The state of an optimizer that manages it per parameter: full on every rank, full on an owner, or sharded.

Such an optimizer says who has what (``owner_of``, ``holds``) and takes state over per parameter (``restore_state``).
So nothing has to be stepped before it is read, and a run reads what another number of ranks, or one process, wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeGuard

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from raytrainer.checkpoint.shard_files import StoredShard, read_into, shard_paths, stored_shards
from raytrainer.layout.ranks import current_rank, num_ranks
from raytrainer.layout.shards import LocalShard
from raytrainer.layout.tensor_layout import local_shard

_STATE = "state."
_GROUPS = "param_groups."

_Shards = list[tuple[Path, StoredShard]]


class PerParameterOptimizer(Protocol):
    """An optimizer that manages its state per parameter."""

    state: dict[torch.Tensor, dict[str, Any]]
    param_groups: list[dict[str, Any]]

    def owner_of(self, parameter: torch.Tensor) -> int | None:
        """The one rank that has the state of a parameter ``[...]``; None if each has that of its own part."""
        ...

    def holds(self, parameter: torch.Tensor) -> bool:
        """Whether this rank has state of a parameter ``[...]``."""
        ...

    def restore_state(self, parameter: torch.Tensor, saved: dict[str, Any]) -> None:
        """Restore the state of a parameter ``[...]``; on ranks that do not hold it, only what is not a tensor."""
        ...


def keeps_per_parameter(optimizer: object) -> TypeGuard[PerParameterOptimizer]:
    """Whether an optimizer manages its state per parameter."""
    return hasattr(optimizer, "owner_of")


class PerParameterState:
    """The state of such an optimizer, by the names of a model's parameters."""

    def __init__(self, model: nn.Module, optimizer: PerParameterOptimizer) -> None:
        self._optimizer = optimizer
        stepped = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        self._stepped = {name: one for name, one in model.named_parameters() if one in stepped}

    def shards(self) -> tuple[dict[str, LocalShard], dict[str, Any]]:
        shards: dict[str, LocalShard] = {}
        values: dict[str, Any] = {}
        for name, parameter in self._stepped.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    owner = self._optimizer.owner_of(parameter)
                    shards[f"{_STATE}{name}.{key}"] = _shard_of(parameter, value, owner)
                else:
                    values[f"{_STATE}{name}.{key}"] = value
        values |= self._options()
        if dist.is_initialized():
            found: list[dict[str, Any]] = [{} for _ in range(num_ranks())]
            dist.all_gather_object(found, values)
            values = {name: value for one in found for name, value in one.items()}
        return shards, values

    def restore(self, source: Path, values: dict[str, Any]) -> None:
        stored = _shards_in(source)
        by_parameter = _by_parameter([*stored, *values])
        unmatched = sorted(set(by_parameter) ^ set(self._stepped)) if by_parameter else []
        if unmatched:
            raise KeyError(f"{unmatched[0]} is only on one side")
        for name, keys in by_parameter.items():
            parameter = self._stepped[name]
            saved: dict[str, Any] = {
                key: values[full_name] for key, full_name in keys.items() if full_name in values
            }
            if self._optimizer.holds(parameter):
                is_sharded = self._optimizer.owner_of(parameter) is None
                saved |= {
                    key: _read(stored[full_name], parameter, name=full_name, is_sharded=is_sharded)
                    for key, full_name in keys.items()
                    if full_name in stored
                }
            self._optimizer.restore_state(parameter, saved)
        self._restore_options(values)

    def _options(self) -> dict[str, Any]:
        names = self._names()
        return {
            f"{_GROUPS}{names[parameter]}.{key}": _plain(value)
            for group in self._optimizer.param_groups
            for parameter in group["params"]
            for key, value in group.items()
            if key != "params"
        }

    def _restore_options(self, values: dict[str, Any]) -> None:
        names = self._names()
        for group in self._optimizer.param_groups:
            prefix = f"{_GROUPS}{names[group['params'][0]]}."
            for full_name, value in values.items():
                key = full_name.removeprefix(prefix)
                if full_name.startswith(prefix) and key in group:
                    group[key] = tuple(value) if isinstance(group[key], tuple) else value

    def _names(self) -> dict[torch.Tensor, str]:
        return {parameter: name for name, parameter in self._stepped.items()}


def _by_parameter(full_names: list[str]) -> dict[str, dict[str, str]]:
    """Full names by the name of the parameter and the key of its state."""
    found: dict[str, dict[str, str]] = {}
    for full_name in full_names:
        if full_name.startswith(_STATE):
            name, _, key = full_name.removeprefix(_STATE).rpartition(".")
            found.setdefault(name, {})[key] = full_name
    return found


def _shard_of(parameter: torch.Tensor, value: torch.Tensor, owner: int | None) -> LocalShard:
    if isinstance(value, DTensor):
        return local_shard(value)
    if owner is None:
        return LocalShard(values=value.detach(), is_copy=current_rank() != 0)
    # Only owners have it; under hybrid sharding the owner in each replica does.
    return LocalShard(values=value.detach(), is_copy=_is_in_later_replica(parameter))


def _is_in_later_replica(parameter: torch.Tensor) -> bool:
    coordinate = parameter.device_mesh.get_coordinate() if isinstance(parameter, DTensor) else None
    if not isinstance(parameter, DTensor) or coordinate is None:
        return False
    return any(
        place
        for placement, place in zip(parameter.placements, coordinate, strict=True)
        if placement.is_replicate()
    )


def _shards_in(source: Path) -> dict[str, _Shards]:
    """The shards of each tensor, and the files that hold them."""
    found: dict[str, _Shards] = {}
    for path in shard_paths(source):
        with path.open("rb") as file:
            for name, one in stored_shards(file).items():
                found.setdefault(name, []).append((path, one))
    return found


def _read(stored: _Shards, parameter: torch.Tensor, *, name: str, is_sharded: bool) -> torch.Tensor:
    """Read a tensor of the state of a parameter.

    Args:
        stored: Its shards in the files.
        parameter: Whose state it is.
        name: Of the tensor, for the error.
        is_sharded: The tensor is sharded like the parameter, if it has its shape.

    Raises:
        ValueError: If elements are missing.
    """
    shapes = [one.shape for _, one in stored]
    shape = (sum(one[0] for one in shapes), *shapes[0][1:]) if shapes[0] else ()
    dtype = stored[0][1].dtype
    target: torch.Tensor
    if is_sharded and isinstance(parameter, DTensor) and tuple(parameter.shape) == shape:
        target = torch.zeros_like(parameter, dtype=dtype).detach()
    else:
        # What counts steps stays on the CPU, as torch's optimizers have it.
        is_counter = name.endswith(".step")
        target = torch.zeros(shape, dtype=dtype, device="cpu" if is_counter else _device_of(parameter))
    shard = local_shard(target)
    left = shard.values.numel()
    for path, one in stored:
        with path.open("rb") as file:
            left -= read_into(shard, file, one)
    if left:
        raise ValueError(f"no file holds {left} elements of {name}")
    return target


def _device_of(parameter: torch.Tensor) -> torch.device:
    if isinstance(parameter, DTensor):
        return torch.device(parameter.device_mesh.device_type)
    return parameter.device


def _plain(value: Any) -> Any:
    return float(value) if hasattr(value, "__float__") and not isinstance(value, int | float) else value
