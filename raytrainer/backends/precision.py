"""Which precision a run really computes in."""

from __future__ import annotations

import torch
from accelerate import Accelerator


def autocast_dtype(accelerator: Accelerator) -> str:
    """The dtype in which a matrix product of this run is computed, found by computing one."""
    with accelerator.autocast(), torch.no_grad():
        one = torch.ones(1, 1, device=accelerator.device)
        return str((one @ one).dtype).removeprefix("torch.")
