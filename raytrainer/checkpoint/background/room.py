"""How much host memory a copy of the state may take: what is free, in the machine and in the container."""

from __future__ import annotations

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
    free = machine.available - int(_KEPT * machine.total)
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text()) - _cached(group)
    except (OSError, ValueError):  # no such group, or "max"
        return max(free, 0)
    return max(min(free, int((1 - _KEPT) * limit) - used), 0)


def _cached(group: Path) -> int:
    """Files that the kernel gives up when memory is wanted [bytes]."""
    lines = (group / "memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
