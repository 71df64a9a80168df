"""The optimizers and schedules that DeepSpeed's JSON names in its sections ``optimizer`` and ``scheduler``.

They are built here, as the engine would build them, so that hooks, parameter groups and checkpoints see them like any
other. An optimizer whose state is offloaded is DeepSpeed's own for the CPU, which a compiler builds at first use.
"""

from __future__ import annotations

import importlib
import shutil
from typing import Any

import torch

from raytrainer.dialects.deepspeed import DeepSpeedOptions
from raytrainer.dialects.deepspeed_auto import section_params
from raytrainer.errors import ConfigurationError

_ON_DEVICE = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "Adagrad": torch.optim.Adagrad,
    "SGD": torch.optim.SGD,
}
_OFFLOADED = {
    "Adam": ("deepspeed.ops.adam", "DeepSpeedCPUAdam"),
    "AdamW": ("deepspeed.ops.adam", "DeepSpeedCPUAdam"),
    "Adagrad": ("deepspeed.ops.adagrad", "DeepSpeedCPUAdagrad"),
    "Lion": ("deepspeed.ops.lion", "DeepSpeedCPULion"),
}
_ADAM_ONLY = ("torch_adam", "adam_w_mode")
"""Words of DeepSpeed that choose between implementations of Adam."""


def build_configured_optimizer(
    options: DeepSpeedOptions, args: Any, groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    """Build the optimizer of the section ``optimizer``.

    Weight decay applies to matrices only, as it does to every optimizer here.

    Args:
        options: With that section.
        args: Give the values of "auto".
        groups: Parameter groups; each has its weight decay.

    Raises:
        ConfigurationError: If there is no such optimizer for where its state is kept, or no compiler for it, or it does
            not take what ``params`` hold.
    """
    assert options.optimizer is not None
    kind = options.optimizer["type"]
    params = section_params(options.optimizer, args)
    decay = params.pop("weight_decay", args.weight_decay)
    is_decoupled = params.get("adam_w_mode", True) if kind == "Adam" else kind == "AdamW"
    is_torch = bool(params.get("torch_adam", False))
    for word in _ADAM_ONLY:
        params.pop(word, None)
    for group in groups:
        group["weight_decay"] = decay if group.get("weight_decay") else 0.0
    if kind == "Adam" and is_decoupled and not is_torch:
        kind = "AdamW"  # DeepSpeed's Adam decouples weight decay unless it is told not to
    try:
        if options.offloads("optimizer") and not is_torch:
            return _offloaded(kind, groups, params)
        return _on_device(kind, groups, params)
    except TypeError as error:
        raise ConfigurationError(f"deepspeed optimizer.params do not fit {kind}: {error}.") from error


def build_configured_schedule(
    options: DeepSpeedOptions, args: Any, optimizer: torch.optim.Optimizer, max_steps: int
) -> Any:
    """Build the schedule of the section ``scheduler``.

    Raises:
        ConfigurationError: If it does not take what ``params`` hold.
    """
    assert options.scheduler is not None
    schedules = importlib.import_module("deepspeed.runtime.lr_schedules")
    params = section_params(options.scheduler, args, max_steps=max_steps)
    try:
        return getattr(schedules, options.scheduler["type"])(optimizer, **params)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"deepspeed scheduler.params do not fit {options.scheduler['type']}: {error}."
        ) from error


def _on_device(kind: str, groups: list[dict[str, Any]], params: dict[str, Any]) -> torch.optim.Optimizer:
    if kind not in _ON_DEVICE:
        raise ConfigurationError(
            f"deepspeed optimizer.type={kind!r} is there for offloaded state only: add offload_optimizer={{'device': "
            "'cpu'}, or use the optim argument."
        )
    is_on_gpu = any(parameter.device.type == "cuda" for group in groups for parameter in group["params"])
    fused = {"fused": True} if is_on_gpu and kind in ("Adam", "AdamW") else {}
    make: Any = _ON_DEVICE[kind]
    return make(groups, **fused, **params)


def _offloaded(kind: str, groups: list[dict[str, Any]], params: dict[str, Any]) -> torch.optim.Optimizer:
    if kind not in _OFFLOADED:
        raise ConfigurationError(
            f"deepspeed optimizer.type={kind!r} has no implementation for offloaded state, which "
            f"{', '.join(_OFFLOADED)} have. Leave the section out to step with the optim argument."
        )
    if shutil.which("c++") is None and shutil.which("g++") is None:
        raise ConfigurationError(
            f"deepspeed optimizer.type={kind!r} with offloaded state is built by a C++ compiler at first use, and "
            "there is none (c++, g++) on this worker. Install one, or leave the section optimizer out: then the optim "
            "argument's optimizer, which needs none, steps on the CPU."
        )
    module, name = _OFFLOADED[kind]
    adam = {"adamw_mode": kind == "AdamW"} if "Adam" in name else {}
    make: Any = getattr(importlib.import_module(module), name)
    return make(groups, **adam, **params)
