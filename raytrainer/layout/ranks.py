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


def join_group() -> None:
    """Make a group of this process alone if there is none, because sharding always works on a group."""
    if not dist.is_initialized():
        store = dist.HashStore()
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)


def sum_over_group(value: torch.Tensor) -> torch.Tensor:
    """All ranks: sum a tensor ``[...]`` over ranks; the argument is not changed."""
    total = value.clone()
    dist.all_reduce(total)
    return total
