"""Memory runs out: which process the kernel ends.

Ray makes all of its processes likely to be chosen, however small they are. One without which a group cannot go on takes
that back for itself, so that a worker is chosen, which is replaced. Ray's own memory monitor cannot be told.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_SCORE = Path("/proc/self/oom_score_adj")


def spare_this_process() -> None:
    """Ask the kernel to end other processes of Ray rather than this one. Does nothing where the kernel is another."""
    with contextlib.suppress(OSError):
        _SCORE.write_text("0")
