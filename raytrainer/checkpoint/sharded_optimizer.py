"""The state of an optimizer whose parameters are sharded, and the ways between it and the whole state of one rank.

Every rank writes the slices that it holds (in DCP's form of safetensors files, so no pickle); what is no tensor is
JSON. A run with another number of ranks, or with whole parameters, reads the slices that it needs; and a sharded run
reads the ``optimizer.pt`` of a run with whole parameters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from raytrainer.checkpoint.layout import SHARDED_OPTIMIZER_NAME, SHARDED_OPTIMIZER_VALUES
from raytrainer.checkpoint.sharded_weights import like
from raytrainer.errors import CheckpointError

_SLICES, _OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
"""Where ``HuggingFaceStorageReader`` looks for the place of a slice in its tensor."""
_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def save_sharded_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> list[Path]:
    """All ranks: write this rank's slices of the state, and rank 0 the rest; return what this rank wrote.

    Nothing is sent. The files are those of ``HuggingFaceStorageWriter``, which would first copy all slices.
    """
    target = directory / SHARDED_OPTIMIZER_NAME
    target.mkdir(parents=True, exist_ok=True)
    rank = dist.get_rank() if dist.is_initialized() else 0
    tensors, values = _flat_state(model, optimizer)
    slices = {
        name: found for name, value in tensors.items() if (found := _own_slice(value, rank)) is not None
    }
    written = []
    if slices:
        offsets = {name: {_OFFSETS: offset} for name, (_, offset) in slices.items()}
        path = target / f"shard-{rank + 1:05d}.safetensors"
        safetensors.torch.save_file(
            {name: local for name, (local, _) in slices.items()},
            path,
            metadata={_SLICES: json.dumps(offsets), "format": "pt"},
        )
        written.append(path)
    if rank == 0:
        path = target / SHARDED_OPTIMIZER_VALUES
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        written.append(path)
    return written


def _own_slice(value: torch.Tensor, rank: int) -> tuple[torch.Tensor, list[int]] | None:
    """The part of a tensor that this rank writes, and where it begins; None where another rank writes it."""
    if not isinstance(value, DTensor):
        return (value.cpu().contiguous(), [0] * value.dim()) if rank == 0 else None
    coordinate = value.device_mesh.get_coordinate()
    assert coordinate is not None
    is_copy = any(
        placement.is_replicate() and position
        for placement, position in zip(value.placements, coordinate, strict=True)
    )
    local = value.to_local()
    if is_copy or not local.numel():
        return None
    _, offset = compute_local_shape_and_global_offset(value.shape, value.device_mesh, value.placements)
    return local.cpu().contiguous(), list(offset)


def load_sharded_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """All ranks: read the slices that this rank needs, into sharded or whole parameters.

    Raises:
        CheckpointError: If the state is damaged, or that of another optimizer.
    """
    source = directory / SHARDED_OPTIMIZER_NAME
    tensors, values = _flat_state(model, optimizer)
    try:
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(source)), no_dist=True)
        found = json.loads((source / SHARDED_OPTIMIZER_VALUES).read_text(encoding="utf-8"))
        strange = sorted(found.keys() ^ values.keys())
        if strange:
            raise KeyError(f"{strange[0]} is only on one side")
        merged: Any = tensors | {name: _as(found[name], value) for name, value in values.items()}
        set_optimizer_state_dict(model, optimizer, merged, options=_FLAT)
    except Exception as error:
        raise CheckpointError(
            f"{source} does not fit the {type(optimizer).__name__} of this run: {error}. Use the optimizer and "
            "trainable parameters that the checkpoint was saved with, or start from its weights alone."
        ) from error


def cut_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Cut the whole state of an optimizer, as ``optimizer.pt`` has it, like this rank's parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=False))

    def cut(number: Any, value: Any) -> Any:
        parameter = by_number.get(number)
        if isinstance(value, torch.Tensor) and parameter is not None and value.shape == parameter.shape:
            return like(value, parameter.detach())
        return value

    cut_all = {
        number: {key: cut(number, value) for key, value in entries.items()}
        for number, entries in state["state"].items()
    }
    return {**state, "state": cut_all}


def _flat_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State by parameter name: the tensors, and everything else."""
    flat: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_FLAT)
    tensors = {name: value for name, value in flat.items() if isinstance(value, torch.Tensor)}
    return tensors, {name: value for name, value in flat.items() if name not in tensors}


def _as(found: Any, value: Any) -> Any:
    return tuple(found) if isinstance(value, tuple) else found
