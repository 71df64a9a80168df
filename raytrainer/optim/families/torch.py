"""The catalogue's rows of optimizers that come with torch and transformers."""

from __future__ import annotations

from typing import Any

import torch
from transformers.optimization import Adafactor

from raytrainer.optim.traits import WHOLE_OR_ROWS, Entry, OptimizerRequest, Traits


def _adamw(request: OptimizerRequest, **implementation: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        request.groups,
        lr=request.learning_rate,
        betas=request.adam_betas,
        eps=request.adam_epsilon,
        **implementation,
    )


def build_adamw(request: OptimizerRequest) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""
    return _adamw(request)


def build_adamw_fused(request: OptimizerRequest) -> torch.optim.Optimizer:
    """AdamW with one kernel for all parameters; on CPU and GPU."""
    return _adamw(request, fused=True)


def build_sgd(request: OptimizerRequest) -> torch.optim.Optimizer:
    """Plain stochastic gradient descent; ``optim_args`` may give ``momentum``, ``dampening`` and ``nesterov``."""
    return torch.optim.SGD(request.groups, lr=request.learning_rate, **request.options)


def build_adagrad(request: OptimizerRequest) -> torch.optim.Optimizer:
    """Adagrad (Duchi et al., JMLR 12, 2011)."""
    return torch.optim.Adagrad(request.groups, lr=request.learning_rate, **request.options)


def build_rmsprop(request: OptimizerRequest) -> torch.optim.Optimizer:
    """RMSprop (Hinton, lecture notes, 2012)."""
    return torch.optim.RMSprop(request.groups, lr=request.learning_rate, **request.options)


def build_adafactor(request: OptimizerRequest) -> torch.optim.Optimizer:
    """Adafactor (Shazeer and Stern, arXiv 1804.04235) with the learning rate of the schedule, and no relative step."""
    return Adafactor(
        request.groups,
        lr=request.learning_rate,
        scale_parameter=False,
        relative_step=False,
        **request.options,
    )


ENTRIES = (
    Entry(name="adamw_torch", family="torch", build=build_adamw, state="2 x fp32", paper="1711.05101"),
    Entry(
        name="adamw_torch_fused",
        family="torch",
        build=build_adamw_fused,
        state="2 x fp32",
        paper="1711.05101",
    ),
    Entry(
        name="sgd",
        family="torch",
        build=build_sgd,
        options={"momentum": float, "dampening": float, "nesterov": bool},
        state="nothing, or 1 x fp32 with momentum",
    ),
    Entry(
        name="adagrad",
        family="torch",
        build=build_adagrad,
        options={"lr_decay": float, "eps": float, "initial_accumulator_value": float},
        state="1 x fp32",
        traits=Traits(
            backends=WHOLE_OR_ROWS,
            why_not="ZeRO rebuilds torch's Adagrad without its parameter groups",
        ),
    ),
    Entry(
        name="rmsprop",
        family="torch",
        build=build_rmsprop,
        options={"momentum": float, "alpha": float, "eps": float, "centered": bool},
        state="1 x fp32, 2 with momentum",
    ),
    Entry(
        name="adafactor",
        family="transformers",
        build=build_adafactor,
        options={"clip_threshold": float, "decay_rate": float, "beta1": float},
        state="rows + columns, fp32",
        paper="1804.04235",
        traits=Traits(
            backends=WHOLE_OR_ROWS,
            steps_whole=True,
            why_not="it factors whole matrices, by their rows and columns",
        ),
    ),
)
