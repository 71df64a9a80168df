"""The process group: which rank this is, how many there are, and sums over them.

Without a process group this process is the only rank.
"""

from __future__ import annotations

import torch
import torch.distributed as dist


def current_rank() -> int:
    """The rank of this process, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join_group(device: torch.device) -> None:
    """Make a group of this process alone if there is none, because sharding always works on a group.

    Args:
        device: Of this process. A GPU's tensors go through NCCL; what is offloaded to the CPU through gloo.
    """
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def sum_over_group(value: torch.Tensor) -> torch.Tensor:
    """All ranks: sum a tensor ``[...]`` over ranks; the argument is not changed."""
    total = value.clone()
    dist.all_reduce(total)
    return total
