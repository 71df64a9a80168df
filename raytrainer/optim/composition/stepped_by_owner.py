"""How any optimizer steps sharded parameters: each has an owner, which alone holds its state and steps it whole.

This is for optimizers that need all rows of a matrix (Adafactor's means over rows and columns, 8-bit blocks that run
across rows): the numbers are those of one worker, and the ranks together hold one state. In every step the gradient and
the values of a parameter are sent to its owner and the values back, three times the cost of gathering a parameter.
"""

from __future__ import annotations

from typing import Any

from raytrainer.optim.composition.composed import Composed
from raytrainer.optim.composition.slots import Slot


class SteppedByOwner(Composed):
    """An inner optimizer per sharded parameter, on its owner; one inner optimizer for all other parameters."""

    def inner_group(self, group: dict[str, Any], slots: list[Slot]) -> dict[str, Any]:
        # The inner optimizer comes from the catalogue, so it may treat targets differently.
        target = {"is_target": group["is_target"]} if "is_target" in group else {}
        return {**super().inner_group(group, slots), **target}

    def describe(self) -> str:
        """For the table of applied settings."""
        names = sorted({type(inner).__name__ for _, inner in self._stepped.values() if inner is not None})
        num_owned = sum(
            slot.inner_parameter is not None and slot.owner is not None for slot, _ in self._stepped.values()
        )
        return f"{'/'.join(names)}, this rank owns {num_owned} of {len(self._stepped)} parameters"
