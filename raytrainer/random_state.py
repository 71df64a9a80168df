"""The random state of a process without its GPUs: what reading and collating data draws from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch


@dataclass(frozen=True)
class HostRandomState:
    """The states of Python, numpy and torch on the CPU."""

    states: dict[str, Any]
    """Under the names that checkpoints of ``transformers`` have for them."""

    @classmethod
    def now(cls) -> Self:
        """The state of this process."""
        return cls(
            {
                "python": random.getstate(),
                "numpy": np.random.get_state(),
                "cpu": torch.random.get_rng_state(),
            }
        )

    def restore(self) -> None:
        """Make it the state of this process."""
        random.setstate(self.states["python"])
        np.random.set_state(self.states["numpy"])
        torch.random.set_rng_state(self.states["cpu"])
