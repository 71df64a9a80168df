"""Whether a launcher such as ``torchrun`` made this process one rank of several, and how it joins the others.

A script under a launcher knows its rank from the start, and may wait for the others before a Trainer trains. Nobody
joins before something needs the others.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from datetime import timedelta

import torch
import torch.distributed as dist

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Set by ``torchrun`` and ``accelerate launch``."""


def is_launched_rank(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started this process as one rank of several."""
    return all(environment.get(name) for name in _VARIABLES)


def launched(name: str) -> int | None:
    """A number that the launcher told this process, such as ``RANK``; None without a launcher."""
    return int(os.environ[name]) if is_launched_rank(os.environ) else None


def join_group(*, use_cpu: bool, timeout_s: float) -> None:
    """All ranks of a launcher: join the default process group, unless this process has joined it.

    Args:
        use_cpu: Use gloo even where there are GPUs.
        timeout_s: Limit of a collective [s].
    """
    if dist.is_initialized():
        return
    has_gpu = torch.cuda.is_available() and not use_cpu
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if has_gpu else "gloo", timeout=timedelta(seconds=timeout_s))
    atexit.register(_end_group)


def _end_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
