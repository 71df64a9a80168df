"""Muon: hidden matrices move along their orthogonalized momentum, everything else as under AdamW.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. By default a step
has the scale of AdamW's (Liu et al., arXiv 2502.16982: 0.2 sqrt(max(m, n)) for a matrix of [m, n]), so that both parts
share a learning rate. The arithmetic is torch's.
"""

from __future__ import annotations

from typing import Any

import torch

from raytrainer.errors import ConfigurationError
from raytrainer.optim.composition.composed import Composed
from raytrainer.optim.composition.slots import Slot
from raytrainer.optim.target_modules import HIDDEN_LINEAR
from raytrainer.optim.traits import ON_ROWS, Entry, OptimizerRequest, Traits

_SCALES = ("match_rms_adamw", "original")
_OPTIONS = {"momentum": float, "nesterov": bool, "ns_steps": int, "adjust_lr_fn": str, "adam_lr": float}


class MuonWithAdamW(Composed):
    """torch's Muon for the groups that have ``is_target``, and AdamW for the others.

    Args:
        groups: Parameter groups with ``lr`` and ``weight_decay``; the targets' come first in ``param_groups``, so that
            the learning rate of the first group, which is the logged one, is Muon's.
        betas: Of AdamW.
        eps: Of AdamW.
        options: Of ``torch.optim.Muon``.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        **options: Any,
    ) -> None:
        self._adamw = {"betas": betas, "eps": eps}
        self._options = options
        super().__init__(sorted(groups, key=lambda group: not group.get("is_target")), torch.optim.AdamW)

    def kind(self, group: dict[str, Any]) -> Any:
        return bool(group.get("is_target"))

    def slot(self, parameter: torch.Tensor, group: dict[str, Any]) -> Slot:
        # AdamW works element by element, so on any rows; a matrix is orthogonalized whole.
        return super().slot(parameter, group) if self.kind(group) else Slot(parameter)

    def make_inner(self, groups: list[dict[str, Any]], kind: Any) -> torch.optim.Optimizer:
        if kind:
            return torch.optim.Muon(groups, **self._options)
        return torch.optim.AdamW(groups, **self._adamw)

    def describe(self) -> str:
        """For the table of what is engaged."""
        hidden = sum(len(group["params"]) for group in self.param_groups if self.kind(group))
        others = len(self._stepped) - hidden
        return f"Muon for {hidden} hidden matrices, AdamW for {others} other parameters"


def build_muon(request: OptimizerRequest) -> torch.optim.Optimizer:
    """Muon for hidden matrices, with AdamW for the rest; ``adam_lr`` is the latter's rate, by default the same."""
    options = dict(request.options)
    adam_lr = options.pop("adam_lr", request.learning_rate)
    scale = options.setdefault("adjust_lr_fn", _SCALES[0])
    if scale not in _SCALES:
        raise ConfigurationError(
            f"optim_args adjust_lr_fn={scale} is not available. There are: {', '.join(_SCALES)}."
        )
    if not 1 <= options.get("ns_steps", 1) < 100:
        raise ConfigurationError(f"optim_args ns_steps={options['ns_steps']} must be from 1 to 99.")
    groups = [
        {"lr": request.learning_rate if group.get("is_target") else adam_lr, **group}
        for group in request.groups
    ]
    return MuonWithAdamW(groups, betas=request.adam_betas, eps=request.adam_epsilon, **options)


ENTRIES = (
    Entry(
        name="muon",
        family="muon",
        build=build_muon,
        options=_OPTIONS,
        traits=Traits(
            takes_target_modules=True,
            default_targets=HIDDEN_LINEAR,
            backends=ON_ROWS,
            why_not="it orthogonalizes whole matrices, of which DeepSpeed has flat runs",
        ),
        state="1 x fp32 of hidden matrices, 2 x fp32 of others",
        paper="2502.16982",
    ),
)
