"""A worker's process before anything of the trainer is there: variables, CPU threads, device, process group."""

from __future__ import annotations

import contextlib
import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

from raytrainer.worker.config import WorkerConfig


def prepare_process(config: WorkerConfig) -> int:
    """All ranks: be one of the processes of a group.

    Args:
        config: Of the workers.

    Returns:
        The rank of this process.
    """
    import ray.train

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if config.directory is not None and Path(config.directory).is_dir():
        os.chdir(config.directory)
    # Variables that torchrun would set; Accelerate and the backends read them.
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
    )
    _open_process_group(config, rank, world_size)
    return rank


def _open_process_group(config: WorkerConfig, rank: int, world_size: int) -> None:
    import torch
    import torch.distributed as dist

    # Ray derives the variable from the CPUs of a worker, unless the user has set it.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    number = int(threads) if threads.isdigit() else config.num_threads
    if number:
        torch.set_num_threads(number)
    device = torch.device("cpu")
    if config.use_gpu:
        from ray.train.torch import get_device

        device = get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    from raytrainer.worker.loopback_store import store_of_one_machine

    timeout = timedelta(seconds=config.timeout_s)
    dist.init_process_group(
        config.backend,
        store=store_of_one_machine(rank, world_size, timeout),
        rank=rank,
        world_size=world_size,
        timeout=timeout,
    )


def disconnect_peers(timeout_s: float) -> None:
    """Close this rank's connections, so that ranks that wait for it in a collective fail at once.

    Args:
        timeout_s: How long that may take [s].
    """
    import torch.distributed as dist

    def destroy() -> None:
        with contextlib.suppress(Exception):
            abort: Any = getattr(dist.distributed_c10d, "_abort_process_group", None)
            if abort is not None and dist.get_backend() == "nccl":
                abort()
            else:
                dist.destroy_process_group()

    if dist.is_initialized():
        thread = threading.Thread(target=destroy, daemon=True)
        thread.start()
        thread.join(timeout_s)
