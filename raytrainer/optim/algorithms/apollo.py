"""APOLLO: AdamW's step is a rescaled gradient, and the scales are estimated in a random low-rank space.

Zhu et al., arXiv 2412.05270, algorithm 1. For W of shape [m, n] with m >= n and gradient G, a Gaussian projection
P [rank, n] with entries of variance 1 / rank gives R = G P^T [m, rank]; AdamW's moments of R give its direction R~; the
scale of each row of G is |R~_i| / |R_i| (``channel``), or one for the matrix, |R~| / |R| (``tensor``). The step is the
scaled G, whose norm may grow by 1% a step at most. For m < n the same holds from the left, for columns.

A random projection is drawn from a seed again in each step, so it takes no memory between steps, and no rank has to
receive it from another: the seed is the parameter's position, and every ``update_proj_gap`` steps the next seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from raytrainer.optim.algorithms.galore_projection import (
    PROJECTION,
    project,
    projection_of,
    projects_from_right,
)
from raytrainer.optim.algorithms.norms import norm
from raytrainer.optim.composition.composed import POSITION
from raytrainer.optim.composition.exact_state import ExactStateOptimizer

SEED = "projection_seed"
_GROWTH = 1.01
_TINY = 1e-8


class Apollo(ExactStateOptimizer):
    """AdamW that keeps, for the matrices of groups with ``rank``, the state of a projected gradient.

    Its state is tensors and numbers only, so a run resumes bitwise.

    Args:
        groups: Parameter groups with ``lr`` and ``weight_decay``. A group with ``rank`` holds matrices, and also has
            ``update_proj_gap`` [steps], ``scale`` (the step is multiplied by its root), ``proj`` ("random" or "svd"),
            ``side`` ("std": the shorter side) and ``scale_type`` ("channel" or "tensor").
        betas: Decay rates of the first and second moment.
        eps: Added to the root of the second moment, before its bias is corrected.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
    ) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self._seeds = {parameter: index + 1 for index, parameter in enumerate(parameters)}
        for group in self.param_groups:
            if POSITION in group:
                self._seeds |= dict.fromkeys(group["params"], group[POSITION] + 1)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group)

    def describe(self) -> str:
        """For the table of applied settings."""
        low = [group for group in self.param_groups if "rank" in group]
        ranks = "/".join(str(rank) for rank in sorted({group["rank"] for group in low}))
        return f"APOLLO, {sum(len(group['params']) for group in low)} matrices at rank {ranks}"

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        age = state.setdefault("step", 0)
        from_right = "rank" in group and projects_from_right(parameter.shape, group["side"])
        if "rank" in group:
            small = project(gradient, self._projection(parameter, gradient, group), from_right=from_right)
        else:
            small = gradient
        state["step"] = age + 1
        direction = self._direction(state, small, group)
        if "rank" in group:
            scales = channel_scales(direction, small, group["scale_type"], from_right=from_right)
            direction = limit_growth(gradient * scales, state) * math.sqrt(group["scale"])
        first, second = (1.0 - beta ** state["step"] for beta in group["betas"])
        step_size = group["lr"] * math.sqrt(second) / first
        parameter.add_(direction.to(parameter.dtype), alpha=-step_size)
        if group.get("weight_decay"):
            parameter.add_(parameter, alpha=-group["lr"] * group["weight_decay"])

    def _direction(self, state: dict[str, Any], small: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        beta1, beta2 = group["betas"]
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(small), torch.zeros_like(small)
        state["exp_avg"].mul_(beta1).add_(small, alpha=1.0 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(small, small, value=1.0 - beta2)
        return state["exp_avg"] / state["exp_avg_sq"].sqrt().add_(group["eps"])

    def _projection(
        self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        state = self.state[parameter]
        is_due = state["step"] % group["update_proj_gap"] == 0
        from_right = projects_from_right(parameter.shape, group["side"])
        if group["proj"] == "svd":
            if is_due:
                state[PROJECTION] = projection_of(gradient, group["rank"], from_right=from_right)
            return state[PROJECTION]
        if SEED not in state:
            state[SEED] = self._seeds[parameter]
        elif is_due:
            state[SEED] = next_seed(state[SEED])
        return random_projection(gradient, group["rank"], state[SEED], from_right=from_right)


def random_projection(gradient: torch.Tensor, rank: int, seed: int, *, from_right: bool) -> torch.Tensor:
    """Draw a Gaussian projection of variance 1 / rank.

    Args:
        gradient: G, ``[m, n]``; gives shape and device.
        rank: Rows or columns of the projection.
        seed: What the projection is drawn from.
        from_right: Whether it multiplies from the right.

    Returns:
        float32, ``[rank, n]`` for a projection from the right, ``[m, rank]`` from the left.
    """
    rows, columns = gradient.shape
    generator = torch.Generator(device=gradient.device).manual_seed(seed)
    shape = (rank, columns) if from_right else (rows, rank)
    return torch.randn(shape, generator=generator, device=gradient.device) / math.sqrt(rank)


def next_seed(seed: int) -> int:
    """The seed of the next projection."""
    generator = torch.Generator().manual_seed(seed)
    return int(torch.randint(0, torch.iinfo(torch.int64).max, (1,), generator=generator).item())


def channel_scales(
    direction: torch.Tensor, small: torch.Tensor, scale_type: str, *, from_right: bool
) -> torch.Tensor:
    """The factors that scale the gradient.

    Args:
        direction: R~, AdamW's direction in the low-rank space, ``[m, rank]`` or ``[rank, n]``.
        small: R, the projected gradient, of the same shape.
        scale_type: "channel" or "tensor".
        from_right: Whether the projection multiplies from the right.

    Returns:
        ``[m, 1]`` or ``[1, n]`` by channel, a scalar by tensor.
    """
    if scale_type == "tensor":
        return norm(direction) / (norm(small) + _TINY)
    dim = 1 if from_right else 0
    return norm(direction, dim=dim) / (norm(small, dim=dim) + _TINY)


def limit_growth(step: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
    """Shrink a step to at most 1.01 times the norm of the last one (Fira, arXiv 2410.01623).

    Args:
        step: ``[m, n]``, float32.
        state: The parameter's state, which keeps the norm of the last step.

    Returns:
        The step, ``[m, n]``.
    """
    size = norm(step)
    if "step_norm" in state:
        excess = (size / (state["step_norm"] + _TINY)).clamp(min=_GROWTH) / _GROWTH
        step, size = step / excess, size / excess
    state["step_norm"] = size
    return step
