"""The part of a tensor that one rank holds: a run of its elements in row-major order.

Rows of a DTensor, a slice of a flat buffer, and a full tensor on every rank are all such runs. So a rank can
read the shards that any backend wrote on any number of ranks, and no backend has to know another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalShard:
    """What this rank holds of a tensor."""

    values: torch.Tensor
    """The memory in use, of any shape; its elements in row-major order are the run."""
    start: int = 0
    """Index of the run's first element in the full tensor, flattened."""
    is_copy: bool = False
    """Another rank holds the same elements and is the one that writes them."""

    @property
    def offsets(self) -> list[int]:
        """Where ``values`` begin in the full tensor, per dimension; a single number if they are flat."""
        if self.values.dim() == 0:
            return []
        row = math.prod(self.values.shape[1:])
        return [self.start // row if row else 0] + [0] * (self.values.dim() - 1)

    def copy_from(self, full: torch.Tensor) -> None:
        """Take this rank's elements out of a full tensor.

        Args:
            full: [the full tensor's shape], on any device and of any dtype.
        """
        run = full.reshape(-1).narrow(0, self.start, self.values.numel())
        with torch.no_grad():
            self.values.copy_(run.reshape(self.values.shape))
