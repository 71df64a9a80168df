"""Whether a launcher such as ``torchrun`` made this process one rank of several, how it joins the others, and leaves.

A script under a launcher knows its rank from the start, and may wait for the others before a Trainer trains. Nobody
joins before something needs the others.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Set by ``torchrun`` and ``accelerate launch``."""
LEAVE_S = 30.0
"""How long a rank that is done waits for the others before its process ends [s]."""
_ENDING = "raytrainer/ending"
"""Counts the ranks that are done, in the store over which they met."""


def is_launched_rank(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started this process as one rank of several."""
    return all(environment.get(name) for name in _VARIABLES)


def launched(name: str) -> int | None:
    """A number that the launcher told this process, such as ``RANK``; None without a launcher."""
    return int(os.environ[name]) if is_launched_rank(os.environ) else None


def collective_backend(args: TrainingArguments, *, use_gpu: bool) -> str:
    """The backend of ``torch.distributed`` for the default group of a run's ranks."""
    if args.ddp_backend:
        return args.ddp_backend
    if not use_gpu:
        return "gloo"
    # With CPU offload, the norm of the gradients is reduced in CPU memory.
    return "cpu:gloo,cuda:nccl" if args.sharding is not None and args.sharding.cpu_offload else "nccl"


def trains_on_gpu(args: TrainingArguments) -> bool:
    """Whether a rank of a launcher trains on a GPU."""
    return torch.cuda.is_available() and not args.use_cpu and args.use_gpu is not False


def join_group(args: TrainingArguments) -> None:
    """All ranks of a launcher: join the default process group, unless this process has joined it."""
    if dist.is_initialized():
        return
    use_gpu = trains_on_gpu(args)
    if use_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = collective_backend(args, use_gpu=use_gpu)
    dist.init_process_group(backend, timeout=timedelta(seconds=args.ddp_timeout))
    atexit.register(_end_group)


def _end_group() -> None:
    """All ranks, when their processes end: leave the group together.

    One that leaves while another still works closes connections that the other has, which gloo may take for a failure
    and abort. They wait over the store and not in a collective, which a collective of a rank that still works would
    meet. A rank that ends with an exception waits for nobody: the launcher is to see it at once.
    """
    if dist.is_initialized():
        with contextlib.suppress(Exception):  # the store may be gone with the process that kept it
            _wait_for_others(dist.distributed_c10d._get_default_store())
        dist.destroy_process_group()


def _wait_for_others(store: dist.Store) -> None:
    store.add(_ENDING, 1)
    has_failed = getattr(sys, "last_value", None) is not None
    began = time.monotonic()
    while not has_failed and store.add(_ENDING, 0) < dist.get_world_size():
        if time.monotonic() - began > LEAVE_S:
            return
        time.sleep(0.05)
