"""The optimizer of a checkpoint: one file with the full state, or shards that all ranks wrote.

Which of the two a backend writes is its own decision; every backend reads both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from raytrainer.checkpoint.names import OPTIMIZER_NAME, SHARDED_OPTIMIZER_NAME
from raytrainer.checkpoint.optimizer_match import check_same_optimizer
from raytrainer.checkpoint.optimizer_state import OptimizerState
from raytrainer.checkpoint.sharded_state import mismatch_explained, read_values, write_sharded_state
from raytrainer.checkpoint.state_files import Stateful, load_state, save_state, saved_optimizer_name
from raytrainer.layout.ranks import current_rank


def save_full_optimizer(directory: Path, optimizer: Stateful) -> list[Path]:
    """All ranks: rank 0 writes the state of an optimizer that is the same on all; return what this rank wrote.

    Raises:
        CheckpointError: If the state holds objects that could not be read back safely.
    """
    return [save_state(directory / OPTIMIZER_NAME, optimizer)] if current_rank() == 0 else []


def save_optimizer_shards(directory: Path, state: OptimizerState) -> list[Path]:
    """All ranks: write this rank's shards of the state; return what this rank wrote."""
    return write_sharded_state(directory, *state.shards())


def load_saved_optimizer(
    directory: Path, *, state: OptimizerState, full: Stateful, name: str, device: torch.device
) -> None:
    """All ranks: restore an optimizer from either form.

    Args:
        directory: The checkpoint.
        state: Reads shards.
        full: Takes the full state.
        name: What errors call the optimizer.
        device: Where the parameters are. Off the CPU a file with the full state is mapped, not read by each rank.

    Raises:
        CheckpointError: If the state is damaged, or that of another optimizer.
    """
    if saved_optimizer_name(directory) == SHARDED_OPTIMIZER_NAME:
        source = directory / SHARDED_OPTIMIZER_NAME
        with mismatch_explained(source, name):
            state.restore(source, read_values(source))
    else:
        # On the CPU the state would keep the map, and a file that is deleted or replaced later would pull it away.
        load_state(
            directory / OPTIMIZER_NAME,
            full,
            name=name,
            mapped=device.type != "cpu",
            check=lambda saved: check_same_optimizer(directory, saved, full, name),
        )


class ShardsOfFullState:
    """Gives an optimizer of DTensors its shards of a full state that every rank has read.

    Args:
        optimizer: Its parameters may be sharded; one that has an owner takes the full tensors on it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """The state of this rank."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take this rank's shards of a full state; nothing is sent."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        by_number: dict[int, torch.Tensor] = dict(zip(numbers, parameters, strict=False))
        sharded = {
            number: {key: self._shard(value, by_number.get(number)) for key, value in entries.items()}
            for number, entries in state_dict["state"].items()
        }
        self.optimizer.load_state_dict({**state_dict, "state": sharded})

    def _shard(self, value: object, parameter: torch.Tensor | None) -> Any:
        owner_of = getattr(self.optimizer, "owner_of", None)
        if (
            not isinstance(value, torch.Tensor)
            or isinstance(value, DTensor)
            or not isinstance(parameter, DTensor)
            or value.shape != parameter.shape
            or (owner_of is not None and owner_of(parameter) is not None)
        ):
            return value
        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
