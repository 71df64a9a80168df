"""The catalogue's rows of LOMO and AdaLomo, which update in the backward pass."""

from __future__ import annotations

from typing import Any

import torch

from raytrainer.optim.algorithms.lomo import AdaLomo
from raytrainer.optim.composition.in_backward import UpdatesInBackward
from raytrainer.optim.traits import GRAD_NORM, Entry, OptimizerRequest, traits_in_backward


def build_lomo(request: OptimizerRequest) -> torch.optim.Optimizer:
    """LOMO (Lv et al., arXiv 2306.09782): stochastic gradient descent without state or stored gradients."""

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=request.learning_rate)

    return UpdatesInBackward(_groups(request), make, measures=bool(request.options.get(GRAD_NORM)))


def build_adalomo(request: OptimizerRequest) -> torch.optim.Optimizer:
    """AdaLomo (Lv et al., arXiv 2310.10195)."""
    options = {key: value for key, value in request.options.items() if key != GRAD_NORM}

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return AdaLomo(groups, lr=request.learning_rate, **options)

    return UpdatesInBackward(_groups(request), make, measures=bool(request.options.get(GRAD_NORM)))


def _groups(request: OptimizerRequest) -> list[dict[str, Any]]:
    return [{"lr": request.learning_rate, **group} for group in request.groups]


ENTRIES = (
    Entry(
        name="lomo",
        family="lomo",
        build=build_lomo,
        options={GRAD_NORM: bool},
        traits=traits_in_backward(takes_target_modules=False),
        state="nothing, and one gradient at a time",
        paper="2306.09782",
    ),
    Entry(
        name="adalomo",
        family="lomo",
        build=build_adalomo,
        options={GRAD_NORM: bool, "clip_threshold": float, "decay_rate": float},
        traits=traits_in_backward(takes_target_modules=False),
        state="rows + columns, fp32, and one gradient at a time",
        paper="2310.10195",
    ),
)
