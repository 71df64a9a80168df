"""Where the ranks of one machine meet: a store that nobody on another machine can reach.

The store of torch.distributed has no password, and by default it listens on all interfaces: whoever reaches its port
reads and writes the keys by which ranks find each other. So rank 0 of workers on one machine has a port of its own, on
the loopback (``worker/meeting_port.py``). Ranks on several machines need the network; what to close there is in
docs/security.md.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist

from raytrainer.worker.meeting_port import LOOPBACK, take_listener


def store_of_one_machine(rank: int, world_size: int, timeout: timedelta) -> dist.Store | None:
    """All ranks: the store at ``MASTER_ADDR``, if that is the loopback; otherwise None, and torch opens its own.

    Args:
        rank: This rank.
        world_size: Number of ranks.
        timeout: How long ranks wait for each other.
    """
    if os.environ.get("MASTER_ADDR") != LOOPBACK:
        return None
    port = int(os.environ["MASTER_PORT"])
    if rank != 0:
        return dist.TCPStore(LOOPBACK, port, world_size, is_master=False, timeout=timeout)
    return dist.TCPStore(
        LOOPBACK,
        port,
        world_size,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=take_listener(port).detach(),
    )
