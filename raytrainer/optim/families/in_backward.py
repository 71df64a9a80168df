"""Optimizers that update in the backward pass: layer-wise GaLore, LOMO and AdaLomo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from raytrainer.optim.algorithms.lomo import AdaLomo
from raytrainer.optim.composition.composed import MakeInner
from raytrainer.optim.composition.in_backward import UpdatesInBackward
from raytrainer.optim.families import galore as galore_family
from raytrainer.optim.families.bitsandbytes import PACKAGE
from raytrainer.optim.traits import (
    BACKENDS_IN_BACKWARD,
    GRAD_NORM,
    WHY_NOT_IN_BACKWARD,
    Entry,
    OptimizerRequest,
    Traits,
)


def _in_backward(request: OptimizerRequest, make_inner: MakeInner) -> torch.optim.Optimizer:
    groups = [{"lr": request.learning_rate, **group} for group in request.groups]
    return UpdatesInBackward(groups, make_inner, measures=bool(request.options.get(GRAD_NORM)))


def _own_options(request: OptimizerRequest) -> dict[str, Any]:
    return {key: value for key, value in request.options.items() if key != GRAD_NORM}


def build_lomo(request: OptimizerRequest) -> torch.optim.Optimizer:
    """LOMO (Lv et al., arXiv 2306.09782): stochastic gradient descent without state or stored gradients."""

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=request.learning_rate)

    return _in_backward(request, make)


def build_adalomo(request: OptimizerRequest) -> torch.optim.Optimizer:
    """AdaLomo (Lv et al., arXiv 2310.10195)."""

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return AdaLomo(groups, lr=request.learning_rate, **_own_options(request))

    return _in_backward(request, make)


def _layerwise(
    build: Callable[[OptimizerRequest], torch.optim.Optimizer],
) -> Callable[[OptimizerRequest], torch.optim.Optimizer]:
    def build_layerwise(request: OptimizerRequest) -> torch.optim.Optimizer:
        def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
            return build(
                OptimizerRequest(
                    groups=groups,
                    learning_rate=request.learning_rate,
                    adam_betas=request.adam_betas,
                    adam_epsilon=request.adam_epsilon,
                    options=_own_options(request),
                    reduces=True,
                )
            )

        return _in_backward(request, make)

    return build_layerwise


def _traits(*, takes_target_modules: bool) -> Traits:
    return Traits(
        updates_in_backward=True,
        supports_accumulation=False,
        takes_target_modules=takes_target_modules,
        backends=BACKENDS_IN_BACKWARD,
        why_not=WHY_NOT_IN_BACKWARD,
    )


ENTRIES = (
    Entry(
        name="lomo",
        family="lomo",
        build=build_lomo,
        options={GRAD_NORM: bool},
        traits=_traits(takes_target_modules=False),
        state="nothing, and one gradient at a time",
        paper="2306.09782",
    ),
    Entry(
        name="adalomo",
        family="lomo",
        build=build_adalomo,
        options={GRAD_NORM: bool, "clip_threshold": float, "decay_rate": float},
        traits=_traits(takes_target_modules=False),
        state="rows + columns, fp32, and one gradient at a time",
        paper="2310.10195",
    ),
    *(
        Entry(
            name=f"{entry.name}_layerwise",
            family="galore",
            build=_layerwise(entry.build),
            package=PACKAGE if entry.package else None,
            options={GRAD_NORM: bool, **entry.options},
            traits=_traits(takes_target_modules=True),
            state=f"{entry.state}; one gradient at a time",
            paper=entry.paper,
        )
        for entry in galore_family.ENTRIES
    ),
)
