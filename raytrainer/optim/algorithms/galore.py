"""GaLore: the gradient of a matrix is projected to a low rank, and an optimizer works on the projection alone.

Zhao et al., arXiv 2403.03507. For W of shape [m, n] with gradient G, algorithm 2 keeps P, the leading ``rank`` singular
vectors of G on its shorter side, computed again every ``update_proj_gap`` steps. For m >= n: R = G P (P: [n, rank]), an
optimizer turns R into a step N, and W <- W - lr * scale * N P^T; for m < n the same from the left.

Any optimizer that works element by element, or on the matrix R, can be the inner one. It steps a matrix of zeros of the
shape of R, whose change is the step; so its state has the size of R, and nothing of the full gradient is kept.

Over ranks, depending on how gradients are laid out (``galore_projection``), the gradient of a matrix is gathered only
in the steps that compute a new projection; in all other steps no more than R is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from raytrainer.layout.rows import is_row_sharded
from raytrainer.optim.algorithms.galore_projection import LowRank, LowRankOnOwner, LowRankReduced, Reduced
from raytrainer.optim.composition.composed import Composed, MakeInner
from raytrainer.optim.composition.slots import Slot, SquaredNorm, norm_of

_OWN_KEYS = frozenset({"rank", "update_proj_gap", "scale", "side"})


class GaLore(Composed):
    """An inner optimizer that steps target matrices by projected gradients, and all other parameters as they are.

    Its state is tensors and numbers only, so a run resumes bitwise.

    Args:
        groups: Parameter groups with ``lr`` and ``weight_decay``. A group with ``rank`` holds matrices, and also has
            ``update_proj_gap`` [steps], ``scale`` and ``side`` ("std": the shorter side).
        make_inner: Makes the inner optimizer from such groups, with small matrices in place of the targets.
        steps_elements: The inner optimizer works element by element, so also on the rows of sharded parameters.
        reduces: Gradients arrive unreduced, and are averaged over ranks here.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        make_inner: MakeInner,
        *,
        steps_elements: bool = False,
        reduces: bool = False,
    ) -> None:
        self._steps_elements = steps_elements
        self._norms: list[SquaredNorm] = []
        self.reduces = reduces
        super().__init__(groups, make_inner, hidden=_OWN_KEYS)
        for number, slot in enumerate(self.low_rank_slots()):
            slot.source_rank = number

    def slot(self, parameter: torch.Tensor, group: dict[str, Any]) -> Slot:
        if "rank" in group:
            if isinstance(parameter, DTensor) and is_row_sharded(parameter):
                return LowRankOnOwner(parameter, group, self._owners[parameter])
            return LowRankReduced(parameter, group) if self.reduces else LowRank(parameter, group)
        if is_row_sharded(parameter):
            return Slot(parameter) if self._steps_elements else super().slot(parameter, group)
        return Reduced(parameter) if self.reduces else Slot(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        if self.reduces and self._squares is None:
            self._norms = self.step_and_measure()
        else:
            super().step(closure)

    def norm_of_step(self) -> torch.Tensor:
        """All ranks: the norm of the gradients of the last step, of target matrices the projected ones (a scalar)."""
        return norm_of(self._norms)

    def inner_group(self, group: dict[str, Any], slots: list[Slot]) -> dict[str, Any]:
        # Weight decay applies to the whole matrix, so the slots do it.
        decay = {"weight_decay": 0.0} if "rank" in group else {}
        return {**super().inner_group(group, slots), **decay}

    def low_rank_slots(self) -> list[LowRank]:
        """The slots of the target matrices."""
        return [slot for slot, _ in self._stepped.values() if isinstance(slot, LowRank)]

    def describe(self) -> str:
        """For the table of applied settings."""
        slots = self.low_rank_slots()
        ranks = sorted({slot.rank for slot in slots})
        inner = next(
            (type(stage.inner).__name__ for stage in self._stages if stage.inner is not None), "no parameter"
        )
        where = ", each on its owner" if any(slot.owner is not None for slot in slots) else ""
        return f"GaLore({inner}), {len(slots)} matrices at rank {'/'.join(map(str, ranks))}{where}"
