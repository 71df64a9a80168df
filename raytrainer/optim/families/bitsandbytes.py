"""The catalogue's rows of bitsandbytes: state in 8 bits (Dettmers et al., arXiv 2110.02861) or 32, also paged.

The state of embeddings, and of parameters with fewer than 4,096 elements, stays fp32. They run on GPUs and on CPUs.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from typing import Any

import torch

from raytrainer.errors import ConfigurationError
from raytrainer.optim.packages import BITSANDBYTES
from raytrainer.optim.traits import WHOLE_OR_ROWS, Entry, OptimizerRequest, Traits
from raytrainer.optim.wide_state import keeps_wide_state

_TRAITS = Traits(
    backends=WHOLE_OR_ROWS, steps_whole=True, why_not="bitsandbytes quantizes blocks of whole parameters"
)
_ADEMAMIX = {
    "beta1": float,
    "beta2": float,
    "beta3": float,
    "alpha": float,
    "eps": float,
    "t_alpha": int,
    "t_beta3": int,
}
_RMSPROP = {"alpha": float, "eps": float, "momentum": float, "centered": bool}


def _module() -> Any:
    return importlib.import_module("bitsandbytes.optim")


def _adamw(request: OptimizerRequest, **variant: object) -> torch.optim.Optimizer:
    return _module().AdamW(
        request.groups,
        lr=request.learning_rate,
        betas=request.adam_betas,
        eps=request.adam_epsilon,
        **variant,
    )


def _lion(request: OptimizerRequest, **variant: object) -> torch.optim.Optimizer:
    return _module().Lion(request.groups, lr=request.learning_rate, betas=request.adam_betas, **variant)


def _rmsprop(request: OptimizerRequest, **variant: object) -> torch.optim.Optimizer:
    return _module().RMSprop(request.groups, lr=request.learning_rate, **request.options, **variant)


def _ademamix(request: OptimizerRequest, **variant: object) -> torch.optim.Optimizer:
    given = dict(request.options)
    betas = (
        given.pop("beta1", request.adam_betas[0]),
        given.pop("beta2", request.adam_betas[1]),
        given.pop("beta3", 0.9999),
    )
    eps = given.pop("eps", request.adam_epsilon)
    return _module().AdEMAMix(
        request.groups, lr=request.learning_rate, betas=betas, eps=eps, **given, **variant
    )


def _on_gpu(request: OptimizerRequest) -> OptimizerRequest:
    if any(parameter.device.type == "cpu" for group in request.groups for parameter in group["params"]):
        raise ConfigurationError(
            "A paged optimizer moves its state between a GPU and the CPU, but these parameters are on the CPU, where "
            "bitsandbytes would quietly not page. Remove paged_ from the name in optim."
        )
    return request


def keep_embeddings_wide(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Have an 8-bit optimizer of bitsandbytes keep the state of embeddings in 32 bits.

    It looks settings of single parameters up by their id, in a table that all optimizers of the process share; so an
    entry ends with its parameter, before another object can have its id.

    Returns:
        The optimizer.
    """
    manager = _module().GlobalOptimManager.get_instance()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if keeps_wide_state(parameter):
                manager.override_config(parameter, "optim_bits", 32)
                weakref.finalize(parameter, manager.pid2config.pop, id(parameter), None)
    return optimizer


def is_quantizing(optimizer_class: type, options: dict[str, Any]) -> bool:
    """Whether a class that the user chose is one of bitsandbytes, with state in 8 bits."""
    return optimizer_class.__module__.startswith("bitsandbytes") and options.get("optim_bits") == 8


def _entry(name: str, build: Callable[..., torch.optim.Optimizer], **fields: Any) -> Entry:
    is_paged = name.startswith("paged_")
    bits = 8 if "8bit" in name else 32
    variant: dict[str, Any] = {"optim_bits": bits}
    if build is not _rmsprop:
        variant["is_paged"] = is_paged
    moments = {_adamw: 2, _ademamix: 3, _lion: 1, _rmsprop: 1}[build]
    state = f"{moments} x {'8 bit' if bits == 8 else 'fp32'}{', paged on a GPU' if is_paged else ''}"

    def build_variant(request: OptimizerRequest) -> torch.optim.Optimizer:
        made = build(_on_gpu(request) if is_paged else request, **variant)
        return keep_embeddings_wide(made) if bits == 8 else made

    return Entry(
        name=name,
        family="bitsandbytes",
        build=build_variant,
        package=BITSANDBYTES,
        traits=_TRAITS,
        state=state,
        **fields,
    )


ENTRIES = (
    *(
        _entry(name, _adamw, paper="2110.02861")
        for name in ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit")
    ),
    *(
        _entry(name, _ademamix, options=_ADEMAMIX, paper="2409.03137")
        for name in ("ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit")
    ),
    *(
        _entry(name, _lion, paper="2302.06675")
        for name in ("lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit")
    ),
    *(
        _entry(name, _rmsprop, options=_RMSPROP)
        for name in ("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit")
    ),
)
