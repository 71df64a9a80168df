"""How ranks are seeded by a library that wants each of them to draw other numbers.

Libraries that sample while they train call ``accelerate.utils.set_seed(seed, device_specific=True)`` in a constructor.
A driver is no rank, and its constructor does not run on the workers: there the call is repeated.
"""

from __future__ import annotations

import os

from accelerate.state import is_initialized
from accelerate.utils.random import set_seed as accelerates_set_seed

from raytrainer.wire.preparations import repeat_on_workers


def set_seed(seed: int, device_specific: bool = False, deterministic: bool = False) -> None:
    """Seed Python, numpy and torch, as ``accelerate.utils.set_seed`` does.

    Args:
        seed: The seed.
        device_specific: Add the rank to it. On a driver, the workers do that.
        deterministic: Use deterministic algorithms.
    """
    if device_specific:
        repeat_on_workers(f"{__name__}:seed_by_rank", seed)
        if not is_initialized():
            seed, device_specific = seed + int(os.environ.get("RANK", "0")), False
    accelerates_set_seed(seed, device_specific=device_specific, deterministic=deterministic)


def seed_by_rank(seed: int) -> None:
    """Worker: seed with another number on each rank."""
    accelerates_set_seed(seed, device_specific=True)
