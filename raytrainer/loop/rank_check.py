"""The rank check: every so many steps, ranks compare the parameters of which each should have the same copy.

Ranks that drift apart, for instance because an optimizer steps before gradients are reduced, go on with losses that
look right, and a checkpoint has the weights of rank 0 alone. Here the run stops with the name of what differs.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist

from raytrainer.errors import EngagementError
from raytrainer.layout.tensor_layout import is_sharded
from raytrainer.loop.run import TrainRun

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of an element's size: sums of bits are exact, and two values have the same sum only by chance."""


def is_check_due(run: TrainRun) -> bool:
    """Whether ranks are compared after this step."""
    every = run.args.rank_check_steps
    return every > 0 and run.runtime.world_size > 1 and run.trainer.state.global_step % every == 0


def check_ranks_agree(run: TrainRun) -> None:
    """All ranks: compare the parameters of which each should have the same copy.

    Raises:
        EngagementError: On all ranks, if one differs; names the first.
    """
    copies = [(name, p) for name, p in run.trainer.model.named_parameters() if not is_sharded(p)]
    if not copies:
        return
    sums = torch.stack([_sum_of_bits(parameter.detach()) for _, parameter in copies])
    # One reduction: the least of the sums, and the least of their negatives, which is the largest.
    least = torch.cat([sums, -sums])
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    differs = cast("list[bool]", (least[: len(copies)] != -least[len(copies) :]).tolist())
    if any(differs):
        first = copies[differs.index(True)][0]
        raise EngagementError(
            f"After step {run.trainer.state.global_step} the ranks do not have the same weights: {first} differs, and "
            f"{sum(differs) - 1} more of {len(copies)} parameters. Something updates them without the gradients of the "
            "other ranks: an optimizer, a callback or a hook. Checkpoints since the last comparison hold the weights "
            "of rank 0. rank_check_steps=0 leaves the comparison out."
        )


def _sum_of_bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(_BITS[tensor.element_size()]).sum(dtype=torch.int64)
