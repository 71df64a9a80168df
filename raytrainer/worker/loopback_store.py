"""Where the ranks of one machine meet: a store that nobody on another machine can reach.

The store of torch.distributed has no password, and by default it listens on all interfaces: whoever reaches its port
reads and writes the keys by which ranks find each other. So rank 0 of workers on one machine opens the port itself, on
the loopback. Ranks on several machines need the network; what to close there is in docs/security.md.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist

LOOPBACK = "127.0.0.1"
_LOOK_S = 0.01
"""How often a rank that is ahead of rank 0 looks whether it has opened the port [s]."""
_LEAST = timedelta(seconds=1)
"""What torch gets to say that rank 0 never came."""


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
        left = _wait_until_open(port, timeout)
        return dist.TCPStore(LOOPBACK, port, world_size, is_master=False, timeout=left)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((LOOPBACK, port))
    listener.listen(max(world_size, 128))
    return dist.TCPStore(
        LOOPBACK,
        port,
        world_size,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def _wait_until_open(port: int, timeout: timedelta) -> timedelta:
    """A rank but 0: wait for rank 0, which torch would do in steps of a quarter of a second and more.

    Returns:
        What is left of the timeout.
    """
    end = time.monotonic() + timeout.total_seconds()
    while (left := end - time.monotonic()) > 0:
        try:
            socket.create_connection((LOOPBACK, port), timeout=left).close()
            break
        except OSError:
            time.sleep(_LOOK_S)
    return max(timedelta(seconds=left), _LEAST)
