"""The catalogue's rows of APOLLO: in one step, or layer by layer in the backward pass."""

from __future__ import annotations

from typing import Any

import torch

from raytrainer.errors import ConfigurationError
from raytrainer.layout.rows import is_row_sharded
from raytrainer.optim.algorithms.apollo import Apollo
from raytrainer.optim.composition.in_backward import UpdatesInBackward
from raytrainer.optim.composition.stepped_by_owner import SteppedByOwner
from raytrainer.optim.traits import (
    GRAD_NORM,
    WHOLE_OR_ROWS,
    Entry,
    OptimizerRequest,
    Traits,
    traits_in_backward,
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
    """APOLLO (Zhu et al., arXiv 2412.05270), with the defaults of transformers."""
    return Apollo(_groups(request), betas=request.adam_betas, eps=request.adam_epsilon)


def build_apollo_adamw_layerwise(request: OptimizerRequest) -> torch.optim.Optimizer:
    """APOLLO in the backward pass, with the same projections as in one step."""

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        def make_whole(inner_groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
            return Apollo(inner_groups, betas=request.adam_betas, eps=request.adam_epsilon)

        is_sharded = any(is_row_sharded(parameter) for group in groups for parameter in group["params"])
        return SteppedByOwner(groups, make_whole) if is_sharded else make_whole(groups)

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
            backends=WHOLE_OR_ROWS,
            steps_whole=True,
            why_not="it scales channels by norms of whole gradients, and ZeRO shards gradients as flat runs",
        ),
        state="2 x fp32 of rank r",
        paper="2412.05270",
    ),
    Entry(
        name="apollo_adamw_layerwise",
        family="apollo",
        build=build_apollo_adamw_layerwise,
        options={GRAD_NORM: bool, **_OPTIONS},
        traits=traits_in_backward(takes_target_modules=True),
        state="2 x fp32 of rank r; one gradient at a time",
        paper="2412.05270",
    ),
)
