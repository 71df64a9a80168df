"""Any optimizer on parameters that are cut: each has an owner, which alone has its state and steps it whole.

For optimizers that need all rows of a matrix (Adafactor's means of rows and columns, 8-bit blocks that run across
rows): their numbers are those of one worker, and the ranks together hold one state. Gradient and values of a parameter
go to its owner and the values back, in every step; so they cost what gathering a parameter costs, three times.
"""

from __future__ import annotations

from typing import Any

from raytrainer.optim.composition.composed import Composed
from raytrainer.optim.composition.slots import Slot


class Owned(Composed):
    """An inner optimizer for each parameter that is cut, on its owner; one for all others."""

    def inner_group(self, group: dict[str, Any], slots: list[Slot]) -> dict[str, Any]:
        # The inner one is an optimizer of the catalogue, which may treat targets differently.
        return {
            **super().inner_group(group, slots),
            **{key: group[key] for key in group if key == "is_target"},
        }

    def describe(self) -> str:
        """For the table of what is engaged."""
        kinds = sorted({type(inner).__name__ for _, inner in self._stepped.values() if inner is not None})
        num_own = sum(
            slot.inside is not None and slot.owner is not None for slot, _ in self._stepped.values()
        )
        return f"{'/'.join(kinds)}, this rank owns {num_own} of {len(self._stepped)} parameters"
