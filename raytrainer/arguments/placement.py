"""Where one process of a run stands: its rank, its world and its device.

A runtime makes one and hands it to ``TrainingArguments.resolve``. This file never looks for a device itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Placement:
    """The place of one process in its run."""

    rank: int
    """Index of this process in ``[0, world_size)``."""
    local_rank: int
    """Index of this process on its node."""
    world_size: int
    """Number of processes of the run."""
    local_world_size: int
    """Number of processes of the run on this node."""
    device: torch.device
    """The one device that this process trains on."""
    backend: str
    """Name of the ``torch.distributed`` backend that fits the device: ``nccl`` or ``gloo``."""

    @property
    def num_gpus(self) -> int:
        """1 on an accelerator, 0 on CPU: a process has one device, never several."""
        return 0 if self.device.type == "cpu" else 1
