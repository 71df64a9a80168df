"""The low-rank optimizers of GaLore, with AdamW, 8-bit AdamW or Adafactor on the projected gradients."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from transformers.optimization import Adafactor

from raytrainer.errors import ConfigurationError
from raytrainer.optim.algorithms.galore import GaLore
from raytrainer.optim.composition.composed import MakeInner
from raytrainer.optim.families.bitsandbytes import PACKAGE
from raytrainer.optim.traits import ON_ROWS, Entry, OptimizerRequest, Traits

_SIDES = ("std", "reverse_std", "left", "right")
_OPTIONS = {"rank": int, "update_proj_gap": int, "scale": float, "proj_type": str}
_TRAITS = Traits(
    takes_target_modules=True,
    can_reduce=True,
    backends=ON_ROWS,
    why_not="DeepSpeed steps flat runs of many parameters, which have no singular vectors",
)


def _galore(
    request: OptimizerRequest, make_inner: MakeInner, *, steps_elements: bool = False
) -> torch.optim.Optimizer:
    """GaLore (Zhao et al., arXiv 2403.03507), with the defaults of its authors' package."""
    given = request.options
    side = given.get("proj_type", "std")
    if side not in _SIDES:
        raise ConfigurationError(
            f"optim_args proj_type={side} is not available. There are: {', '.join(_SIDES)}."
        )
    low_rank = {
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


def build_galore_adamw(request: OptimizerRequest) -> torch.optim.Optimizer:
    """GaLore with AdamW."""

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            groups, lr=request.learning_rate, betas=request.adam_betas, eps=request.adam_epsilon
        )

    return _galore(request, make, steps_elements=True)


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

    return _galore(request, make)


def build_galore_adafactor(request: OptimizerRequest) -> torch.optim.Optimizer:
    """GaLore with Adafactor."""

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return Adafactor(groups, lr=request.learning_rate, scale_parameter=False, relative_step=False)

    return _galore(request, make)


ENTRIES = (
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
        package=PACKAGE,
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
