"""APOLLO, in one step or layer by layer in the backward pass."""

from __future__ import annotations

from typing import Any

import torch

from raytrainer.errors import ConfigurationError
from raytrainer.layout.rows import is_cut
from raytrainer.optim.algorithms.apollo import Apollo
from raytrainer.optim.composition.in_backward import UpdatesInBackward
from raytrainer.optim.composition.stepped_by_owner import Owned
from raytrainer.optim.traits import (
    BACKENDS_IN_BACKWARD,
    GRAD_NORM,
    ON_ROWS,
    WHY_NOT_IN_BACKWARD,
    Entry,
    OptimizerRequest,
    Traits,
)

_CHOICES = {
    "proj": ("random", "svd"),
    "proj_type": ("std", "reverse_std", "left", "right"),
    "scale_type": ("channel", "tensor"),
}
_OPTIONS = {"rank": int, "update_proj_gap": int, "scale": float, **dict.fromkeys(_CHOICES, str)}


def _groups(request: OptimizerRequest) -> list[dict[str, Any]]:
    given = request.options
    chosen = {key: given.get(key, choices[0]) for key, choices in _CHOICES.items()}
    for key, choices in _CHOICES.items():
        if chosen[key] not in choices:
            raise ConfigurationError(
                f"optim_args {key}={chosen[key]} is not available. There are: {', '.join(choices)}."
            )
    counts = {"rank": given.get("rank", 128), "update_proj_gap": given.get("update_proj_gap", 200)}
    for key, count in counts.items():
        if count < 1:
            raise ConfigurationError(f"optim_args {key}={count} must be at least 1.")
    low_rank = {
        **counts,
        "scale": given.get("scale", 1.0),
        "proj": chosen["proj"],
        "side": chosen["proj_type"],
        "scale_type": chosen["scale_type"],
    }
    return [
        {"lr": request.learning_rate, **group, **(low_rank if group.get("is_target") else {})}
        for group in request.groups
    ]


def build_apollo_adamw(request: OptimizerRequest) -> torch.optim.Optimizer:
    """APOLLO (Zhu et al., arXiv 2412.05270), with the anchor's defaults."""
    return Apollo(_groups(request), betas=request.adam_betas, eps=request.adam_epsilon)


def build_apollo_adamw_layerwise(request: OptimizerRequest) -> torch.optim.Optimizer:
    """APOLLO in the backward pass; its projections are those of the other form."""

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        def make_whole(inner_groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
            return Apollo(inner_groups, betas=request.adam_betas, eps=request.adam_epsilon)

        is_cut_here = any(is_cut(parameter) for group in groups for parameter in group["params"])
        return Owned(groups, make_whole) if is_cut_here else make_whole(groups)

    measures = bool(request.options.get(GRAD_NORM))
    return UpdatesInBackward(_groups(request), make, measures=measures)


ENTRIES = (
    Entry(
        name="apollo_adamw",
        family="apollo",
        build=build_apollo_adamw,
        options=_OPTIONS,
        traits=Traits(
            takes_target_modules=True,
            backends=ON_ROWS,
            steps_whole=True,
            why_not="it scales channels by norms of whole gradients, which DeepSpeed has in flat runs",
        ),
        state="2 x fp32 of rank r",
        paper="2412.05270",
    ),
    Entry(
        name="apollo_adamw_layerwise",
        family="apollo",
        build=build_apollo_adamw_layerwise,
        options={GRAD_NORM: bool, **_OPTIONS},
        traits=Traits(
            takes_target_modules=True,
            updates_in_backward=True,
            supports_accumulation=False,
            backends=BACKENDS_IN_BACKWARD,
            why_not=WHY_NOT_IN_BACKWARD,
        ),
        state="2 x fp32 of rank r; one gradient at a time",
        paper="2412.05270",
    ),
)
