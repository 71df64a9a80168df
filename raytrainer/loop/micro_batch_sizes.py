"""How the samples of a step are split into micro-batches, and how they are split further. Pure integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatchSizes:
    """How the samples of a step are split."""

    per_device: int
    """Samples of a micro-batch on one rank."""
    accumulation: int
    """Micro-batches of a step on one rank."""

    def smaller(self) -> MicroBatchSizes | None:
        """The next smaller micro-batch that gives the same global batch: half, or a third of an odd one, and so on.

        Returns:
            None if it is one sample already.
        """
        for divisor in range(2, self.per_device + 1):
            if self.per_device % divisor == 0:
                return MicroBatchSizes(
                    per_device=self.per_device // divisor, accumulation=self.accumulation * divisor
                )
        return None
