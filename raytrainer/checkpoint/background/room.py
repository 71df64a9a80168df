"""How much host memory a copy of the state may take: what is free in the machine, the container and the process."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

_GROUP = Path("/sys/fs/cgroup")
_KEPT = 0.1
"""Of the memory of a machine; Ray ends workers when less than a twentieth is free."""


def free_memory(group: Path = _GROUP) -> int:
    """What is free beyond a reserve [bytes].

    Args:
        group: The directory of the container's control group.
    """
    machine = psutil.virtual_memory()
    free = min(machine.available - int(_KEPT * machine.total), _free_addresses())
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text()) - _cached(group)
    except (OSError, ValueError):  # no such group, or "max"
        return max(free, 0)
    return max(min(free, int((1 - _KEPT) * limit) - used), 0)


def _free_addresses() -> int:
    """What the process may still map, where ``ulimit -v`` limits it [bytes]."""
    process = psutil.Process()
    if not hasattr(psutil, "RLIMIT_AS"):  # not on Linux
        return sys.maxsize
    limit, _ = process.rlimit(psutil.RLIMIT_AS)
    return sys.maxsize if limit == psutil.RLIM_INFINITY else limit - process.memory_info().vms


def _cached(group: Path) -> int:
    """Files that the kernel gives up when memory is wanted [bytes]."""
    lines = (group / "memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
