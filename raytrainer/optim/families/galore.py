"""The catalogue's rows of GaLore: AdamW, 8-bit AdamW or Adafactor on projected gradients, also layer by layer.

The ``_layerwise`` rows update in the backward pass, with the same inner optimizers.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import torch
from transformers.optimization import Adafactor

from raytrainer.errors import ConfigurationError
from raytrainer.optim.algorithms.galore import GaLore
from raytrainer.optim.composition.composed import MakeInner
from raytrainer.optim.composition.in_backward import UpdatesInBackward
from raytrainer.optim.packages import BITSANDBYTES
from raytrainer.optim.traits import (
    GRAD_NORM,
    WHOLE_OR_ROWS,
    Entry,
    OptimizerRequest,
    Traits,
    traits_in_backward,
)

_SIDES = ("std", "reverse_std", "left", "right")
_OPTIONS = {"rank": int, "update_proj_gap": int, "scale": float, "proj_type": str}
_TRAITS = Traits(
    takes_target_modules=True,
    can_reduce=True,
    backends=WHOLE_OR_ROWS,
    why_not="ZeRO steps flat runs of many parameters, which have no singular vectors",
)


def build_galore_adamw(request: OptimizerRequest) -> torch.optim.Optimizer:
    """GaLore with AdamW."""

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            groups, lr=request.learning_rate, betas=request.adam_betas, eps=request.adam_epsilon
        )

    return _build(request, make, steps_elements=True)


def build_galore_adamw_8bit(request: OptimizerRequest) -> torch.optim.Optimizer:
    """GaLore with the 8-bit AdamW of bitsandbytes, on GPUs and CPUs."""

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return importlib.import_module("bitsandbytes.optim").AdamW(
            groups,
            lr=request.learning_rate,
            betas=request.adam_betas,
            eps=request.adam_epsilon,
            optim_bits=8,
        )

    return _build(request, make)


def build_galore_adafactor(request: OptimizerRequest) -> torch.optim.Optimizer:
    """GaLore with Adafactor."""

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return Adafactor(groups, lr=request.learning_rate, scale_parameter=False, relative_step=False)

    return _build(request, make)


def build_layerwise(
    build: Callable[[OptimizerRequest], torch.optim.Optimizer],
) -> Callable[[OptimizerRequest], torch.optim.Optimizer]:
    """Turn a builder into one whose optimizer updates in the backward pass, one parameter at a time."""

    def build_in_backward(request: OptimizerRequest) -> torch.optim.Optimizer:
        options = {key: value for key, value in request.options.items() if key != GRAD_NORM}

        def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
            return build(dataclasses.replace(request, groups=groups, options=options, reduces=True))

        groups = [{"lr": request.learning_rate, **group} for group in request.groups]
        return UpdatesInBackward(groups, make, measures=bool(request.options.get(GRAD_NORM)))

    return build_in_backward


def _build(
    request: OptimizerRequest, make_inner: MakeInner, *, steps_elements: bool = False
) -> torch.optim.Optimizer:
    """GaLore (Zhao et al., arXiv 2403.03507), with the defaults of its authors' package."""
    given = request.options
    side = given.get("proj_type", "std")
    if side not in _SIDES:
        raise ConfigurationError(
            f"optim_args proj_type={side} is not available. There are: {', '.join(_SIDES)}."
        )
    low_rank: dict[str, Any] = {
        "rank": given.get("rank", 128),
        "update_proj_gap": given.get("update_proj_gap", 200),
        "scale": given.get("scale", 0.25),
        "side": side,
    }
    for name in ("rank", "update_proj_gap"):
        if low_rank[name] < 1:
            raise ConfigurationError(f"optim_args {name}={low_rank[name]} must be at least 1.")
    groups = [
        {"lr": request.learning_rate, **group, **(low_rank if group.get("is_target") else {})}
        for group in request.groups
    ]
    return GaLore(groups, make_inner, steps_elements=steps_elements, reduces=request.reduces)


_AFTER_BACKWARD = (
    Entry(
        name="galore_adamw",
        family="galore",
        build=build_galore_adamw,
        options=_OPTIONS,
        traits=_TRAITS,
        state="2 x fp32 of rank r, and the projection",
        paper="2403.03507",
    ),
    Entry(
        name="galore_adamw_8bit",
        family="galore",
        build=build_galore_adamw_8bit,
        package=BITSANDBYTES,
        options=_OPTIONS,
        traits=_TRAITS,
        state="2 x 8 bit of rank r, and the projection",
        paper="2403.03507",
    ),
    Entry(
        name="galore_adafactor",
        family="galore",
        build=build_galore_adafactor,
        options=_OPTIONS,
        traits=_TRAITS,
        state="rows + columns of rank r, and the projection",
        paper="2403.03507",
    ),
)

ENTRIES = (
    *_AFTER_BACKWARD,
    *(
        dataclasses.replace(
            entry,
            name=f"{entry.name}_layerwise",
            build=build_layerwise(entry.build),
            options={GRAD_NORM: bool, **entry.options},
            traits=traits_in_backward(takes_target_modules=True),
            state=f"{entry.state}; one gradient at a time",
        )
        for entry in _AFTER_BACKWARD
    ),
)
