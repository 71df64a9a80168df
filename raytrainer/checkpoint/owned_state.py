"""The state of an optimizer that keeps it by parameter: whole on every rank, whole on the parameter's owner, or cut.

Such an optimizer says who has what (``owner_of``, ``holds``) and takes state over by parameter (``restore_state``), so
nothing has to be stepped before it is read, and a run reads what another number of ranks, or one process, has written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from raytrainer.layout.pieces import SLICES, Piece, Stored, contents, files_of, piece_of, read_into

_STATE = "state."
_GROUPS = "param_groups."


def keeps_by_parameter(optimizer: Any) -> bool:
    """Whether an optimizer is one of these."""
    return hasattr(optimizer, "owner_of")


def state_of(model: nn.Module, optimizer: Any) -> tuple[dict[str, Piece], dict[str, Any]]:
    """All ranks: the tensors that this rank has, and on rank 0 everything else of all ranks."""
    pieces: dict[str, Piece] = {}
    values: dict[str, Any] = {}
    for name, parameter in _stepped(model, optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                pieces[f"{_STATE}{name}.{key}"] = _piece(parameter, value, optimizer.owner_of(parameter))
            else:
                values[f"{_STATE}{name}.{key}"] = value
    names = {parameter: name for name, parameter in _stepped(model, optimizer)}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            values |= {
                f"{_GROUPS}{names[parameter]}.{key}": _plain(value)
                for key, value in group.items()
                if key != "params"
            }
    if dist.is_initialized():
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, values)
        values = {name: value for one in found for name, value in one.items()}
    return pieces, values


def load_state(model: nn.Module, optimizer: Any, source: Path, values: dict[str, Any]) -> None:
    """All ranks: read what this rank holds.

    Args:
        model: Whose parameters have the names of the files.
        optimizer: Of the kind that was saved.
        source: The directory of the files.
        values: What is no tensor, by name.

    Raises:
        KeyError: If there is nothing for a parameter.
        ValueError: If elements are missing, or the state is of another optimizer.
    """
    stored = _stored(source)
    by_parameter: dict[str, dict[str, Any]] = {}
    for full_name in [*stored, *values]:
        if full_name.startswith(_STATE):
            name, _, key = full_name.removeprefix(_STATE).rpartition(".")
            by_parameter.setdefault(name, {})[key] = full_name
    stepped = dict(_stepped(model, optimizer))
    strange = sorted(set(by_parameter) ^ set(stepped)) if by_parameter else []
    if strange:
        raise KeyError(f"{strange[0]} is only on one side")
    for name, keys in by_parameter.items():
        parameter = stepped[name]
        is_here = optimizer.holds(parameter)
        saved: dict[str, Any] = {
            key: values[full_name] for key, full_name in keys.items() if full_name in values
        }
        if is_here:
            is_cut = optimizer.owner_of(parameter) is None
            saved |= {
                key: _read(stored[full_name], parameter if is_cut else None, parameter, full_name)
                for key, full_name in keys.items()
                if full_name in stored
            }
        optimizer.restore_state(parameter, saved)
    names = {parameter: name for name, parameter in stepped.items()}
    for group in optimizer.param_groups:
        prefix = f"{_GROUPS}{names[group['params'][0]]}."
        for full_name, value in values.items():
            key = full_name.removeprefix(prefix)
            if full_name.startswith(prefix) and key in group:
                group[key] = tuple(value) if isinstance(group[key], tuple) else value


def _stepped(model: nn.Module, optimizer: Any) -> Iterator[tuple[str, nn.Parameter]]:
    stepped = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter in stepped:
            yield name, parameter


def _piece(parameter: Any, value: torch.Tensor, owner: int | None) -> Piece:
    if isinstance(value, DTensor):
        return piece_of(value)
    if owner is None:
        return Piece(values=value.detach(), is_copy=dist.is_initialized() and dist.get_rank() != 0)
    # Only owners have it; under hybrid sharding those of all replicas do.
    is_first = True
    if isinstance(parameter, DTensor):
        coordinate: Any = parameter.device_mesh.get_coordinate()
        is_first = not any(
            place
            for placement, place in zip(parameter.placements, coordinate, strict=True)
            if placement.is_replicate()
        )
    return Piece(values=value.detach(), is_copy=not is_first)


def _stored(source: Path) -> dict[str, list[tuple[Path, Stored]]]:
    """The runs of each tensor, and where they are."""
    found: dict[str, list[tuple[Path, Stored]]] = {}
    for path in files_of(source):
        with path.open("rb") as file:
            for name, one in contents(file, SLICES).items():
                found.setdefault(name, []).append((path, one))
    return found


def _read(runs: list[tuple[Path, Stored]], cut_like: Any, parameter: Any, name: str) -> torch.Tensor:
    """A tensor of the state, cut like a parameter if it has its shape and that is cut."""
    shapes = [one.shape for _, one in runs]
    shape = (sum(one[0] for one in shapes), *shapes[0][1:]) if shapes[0] else ()
    dtype = runs[0][1].dtype
    if isinstance(cut_like, DTensor) and tuple(cut_like.shape) == shape:
        target: torch.Tensor = torch.zeros_like(cut_like, dtype=dtype).detach()
    else:
        # What counts steps stays on the CPU, as torch's optimizers have it.
        target = torch.zeros(shape, dtype=dtype, device=_device(parameter) if shape else "cpu")
    piece = piece_of(target) if isinstance(target, DTensor) else Piece(values=target)
    left = piece.values.numel()
    for path, one in runs:
        with path.open("rb") as file:
            left -= read_into(piece, file, one)
    if left:
        raise ValueError(f"{left} elements of {name} are in none of the files")
    return target


def _device(parameter: Any) -> torch.device:
    return (
        torch.device(parameter.device_mesh.device_type)
        if isinstance(parameter, DTensor)
        else parameter.device
    )


def _plain(value: Any) -> Any:
    return float(value) if hasattr(value, "__float__") and not isinstance(value, int | float) else value
