"""The optimizers that come with torch: AdamW (plain and fused) and SGD."""

from __future__ import annotations

from typing import Any

import torch

from raytrainer.optim.traits import Entry, OptimizerRequest


def _adamw(request: OptimizerRequest, **kernel: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        request.groups, lr=request.learning_rate, betas=request.adam_betas, eps=request.adam_epsilon, **kernel
    )


def build_adamw(request: OptimizerRequest) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""
    return _adamw(request)


def build_adamw_fused(request: OptimizerRequest) -> torch.optim.Optimizer:
    """AdamW with one kernel for all parameters; on CPU and GPU."""
    return _adamw(request, fused=True)


def build_sgd(request: OptimizerRequest) -> torch.optim.Optimizer:
    """Plain stochastic gradient descent; ``optim_args`` may give ``momentum``, ``dampening`` and ``nesterov``."""
    options: dict[str, Any] = {}
    for name, value in request.options.items():
        options[name] = value.lower() in {"1", "true", "yes"} if name == "nesterov" else float(value)
    return torch.optim.SGD(request.groups, lr=request.learning_rate, **options)


ENTRIES = (
    Entry(name="adamw_torch", family="torch", build=build_adamw),
    Entry(name="adamw_torch_fused", family="torch", build=build_adamw_fused),
    Entry(
        name="sgd",
        family="torch",
        build=build_sgd,
        option_names=frozenset({"momentum", "dampening", "nesterov"}),
    ),
)
