"""Muon: hidden matrices are stepped along their orthogonalized momentum, all other parameters by AdamW.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. By default a step has the scale of one
of AdamW (Liu et al., arXiv 2502.16982: 0.2 sqrt(max(m, n)) for a matrix of shape [m, n]), so that both parts share a
learning rate. The arithmetic is torch's.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch

from raytrainer.optim.composition.composed import Composed
from raytrainer.optim.composition.slots import Slot


class MuonWithAdamW(Composed):
    """torch's Muon for the groups that have ``is_target``, and AdamW for the others.

    Args:
        groups: Parameter groups with ``lr`` and ``weight_decay``; the targets' come first in ``param_groups``, so that
            the learning rate of the first group, which is the logged one, is Muon's.
        betas: AdamW's.
        eps: AdamW's.
        options: Keywords of ``torch.optim.Muon``.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        **options: Any,
    ) -> None:
        self._adamw: dict[str, Any] = {"betas": betas, "eps": eps}
        self._options = options
        super().__init__(sorted(groups, key=lambda group: not group.get("is_target")), torch.optim.AdamW)

    def inner_key(self, group: dict[str, Any]) -> Hashable:
        return bool(group.get("is_target"))

    def slot(self, parameter: torch.Tensor, group: dict[str, Any]) -> Slot:
        # AdamW works element by element, so on any rows; a matrix is orthogonalized whole.
        return super().slot(parameter, group) if self.inner_key(group) else Slot(parameter)

    def make_inner(self, groups: list[dict[str, Any]], key: Hashable) -> torch.optim.Optimizer:
        if key:
            return torch.optim.Muon(groups, **self._options)
        return torch.optim.AdamW(groups, **self._adamw)

    def describe(self) -> str:
        """For the table of applied settings."""
        hidden = sum(len(group["params"]) for group in self.param_groups if self.inner_key(group))
        others = len(self._stepped) - hidden
        return f"Muon for {hidden} hidden matrices, AdamW for {others} other parameters"
