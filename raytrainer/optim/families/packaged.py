"""The catalogue's rows of optimizers that come with a package: schedulefree, torch-optimi and torchao."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from raytrainer.optim.packages import OPTIMI, SCHEDULE_FREE, TORCHAO
from raytrainer.optim.traits import WHOLE_OR_ROWS, WHOLE_PARAMETERS, Entry, OptimizerRequest, Traits

_SCHEDULE_FREE_OPTIONS = {"weight_lr_power": float, "r": float}
_AVERAGING = Traits(
    backends=WHOLE_OR_ROWS,
    why_not="it swaps weights with their average between training and evaluation, and ZeRO keeps copies of both",
)


def _make(module: str, name: str, *args: object, **kwargs: object) -> torch.optim.Optimizer:
    return getattr(importlib.import_module(module), name)(*args, **kwargs)


def _adam(request: OptimizerRequest) -> dict[str, Any]:
    return {"lr": request.learning_rate, "betas": request.adam_betas, "eps": request.adam_epsilon}


def build_schedule_free_adamw(request: OptimizerRequest) -> torch.optim.Optimizer:
    """AdamW without a schedule (Defazio et al., arXiv 2405.15682); it warms up by itself."""
    return _make(
        "schedulefree",
        "AdamWScheduleFree",
        request.groups,
        **_adam(request),
        **_warmup(request),
        **request.options,
    )


def build_schedule_free_sgd(request: OptimizerRequest) -> torch.optim.Optimizer:
    """SGD without a schedule (arXiv 2405.15682)."""
    return _make(
        "schedulefree",
        "SGDScheduleFree",
        request.groups,
        lr=request.learning_rate,
        **_warmup(request),
        **request.options,
    )


def build_schedule_free_radam(request: OptimizerRequest) -> torch.optim.Optimizer:
    """RAdam without a schedule (arXiv 2405.15682), which needs no warmup."""
    return _make("schedulefree", "RAdamScheduleFree", request.groups, **_adam(request), **request.options)


def _warmup(request: OptimizerRequest) -> dict[str, Any]:
    return {"warmup_steps": int(request.warmup_steps)}


def build_stable_adamw(request: OptimizerRequest) -> torch.optim.Optimizer:
    """StableAdamW (Wortsman et al., arXiv 2304.13013)."""
    # The package takes its Triton kernels wherever Triton is installed, and they cannot read the memory of a CPU.
    parameters = [parameter for group in request.groups for parameter in group["params"]]
    kernels = None if all(parameter.is_cuda for parameter in parameters) else False
    return _make("optimi", "StableAdamW", request.groups, triton=kernels, **_adam(request), **request.options)


def build_adamw_4bit(request: OptimizerRequest) -> torch.optim.Optimizer:
    """AdamW with 4-bit state (Li et al., arXiv 2309.01507)."""
    return _make("torchao.optim", "AdamW4bit", request.groups, **_adam(request), **request.options)


def build_adamw_8bit(request: OptimizerRequest) -> torch.optim.Optimizer:
    """AdamW with 8-bit state (arXiv 2110.02861)."""
    return _make("torchao.optim", "AdamW8bit", request.groups, **_adam(request), **request.options)


ENTRIES = (
    Entry(
        name="schedule_free_adamw",
        family="schedulefree",
        build=build_schedule_free_adamw,
        package=SCHEDULE_FREE,
        options=_SCHEDULE_FREE_OPTIONS,
        traits=_AVERAGING,
        state="2 x fp32",
        paper="2405.15682",
    ),
    Entry(
        name="schedule_free_sgd",
        family="schedulefree",
        build=build_schedule_free_sgd,
        package=SCHEDULE_FREE,
        options=_SCHEDULE_FREE_OPTIONS,
        traits=_AVERAGING,
        state="1 x fp32",
        paper="2405.15682",
    ),
    Entry(
        name="schedule_free_radam",
        family="schedulefree",
        build=build_schedule_free_radam,
        package=SCHEDULE_FREE,
        options=_SCHEDULE_FREE_OPTIONS,
        traits=_AVERAGING,
        state="2 x fp32",
        paper="2405.15682",
    ),
    Entry(
        name="stable_adamw",
        family="optimi",
        build=build_stable_adamw,
        package=OPTIMI,
        options={"decouple_lr": bool, "max_lr": float, "kahan_sum": bool},
        traits=Traits(
            backends=WHOLE_PARAMETERS,
            why_not="it scales by norms of whole parameters, and sharded checkpoints do not keep its step counter",
        ),
        state="2 x fp32",
        paper="2304.13013",
    ),
    *(
        Entry(
            name=name,
            family="torchao",
            build=build,
            package=TORCHAO,
            options={"block_size": int, "bf16_stochastic_round": bool},
            traits=Traits(
                backends=WHOLE_PARAMETERS,
                why_not="its state uses a tensor class that sharded checkpoints cannot hold",
            ),
            state=state,
            paper=paper,
        )
        for name, build, state, paper in (
            ("adamw_torch_4bit", build_adamw_4bit, "2 x 4 bit", "2309.01507"),
            ("adamw_torch_8bit", build_adamw_8bit, "2 x 8 bit", "2110.02861"),
        )
    ),
)
