"""``auto_find_batch_size``: the largest micro-batch that fits, at the same global batch.

A step that runs out of memory ends the attempt on all ranks. The run then begins again (or goes on from its last
checkpoint) with smaller micro-batches and as many more of them, so that each step sees the same samples.

For ranks to agree there must be no collective in which the others wait for the one without memory. So gradients are
not reduced in the backward pass here: ranks agree after each micro-batch on whether all had memory for it, and
average their gradients after the last one. That costs the overlap of computing and sending. They tell each other again
after the update, which makes the optimizer's state. Memory that ends anywhere else (in an evaluation, in a collective
of the user's own) is an error like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist

from raytrainer.loop.run import TrainRun

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|CUDNN_STATUS_NOT_SUPPORTED", re.IGNORECASE)


class OutOfMemory(Exception):  # noqa: N818 - no failure: what ends an attempt
    """All ranks: one of them had not enough memory for a step."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device, or the host, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def agree_on_memory(run: TrainRun, work: Callable[[], Any]) -> Any:
    """All ranks: do something that has no collective in it, and find out whether all of them had memory for it.

    Raises:
        OutOfMemory: On all ranks, if one had not.
    """
    result, failed = None, False
    try:
        result = work()
    except (RuntimeError, torch.OutOfMemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True  # The exception is let go here: its frames hold the activations.
    if run.runtime.agree([int(failed)])[0]:
        raise OutOfMemory
    return result


def average_gradients(run: TrainRun) -> None:
    """All ranks: what DDP does in the backward pass, after it."""
    run.backend.accelerator.gradient_state._set_sync_gradients(True)
    if run.runtime.world_size == 1:
        return
    parameters = [one for one in run.trainer.model.parameters() if one.requires_grad]
    used = torch.tensor(
        [one.grad is not None for one in parameters], dtype=torch.int32, device=run.args.device
    )
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    pending: list[Any] = []
    flags = cast("list[int]", used.tolist())
    for parameter, is_used in zip(parameters, flags, strict=True):
        if not is_used:
            continue
        if parameter.grad is None:  # another rank's samples used it
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.div_(run.runtime.world_size)
        pending.append(dist.all_reduce(parameter.grad, async_op=True))
    for work in pending:
        work.wait()
