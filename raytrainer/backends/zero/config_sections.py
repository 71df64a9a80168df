"""Which optimizer and schedule the sections ``optimizer`` and ``scheduler`` of DeepSpeed's JSON name.

They are built here, as the engine would build them, so that hooks, parameter groups and checkpoints treat them like any
other. An optimizer with offloaded state is DeepSpeed's own for the CPU, which a compiler builds at first use.
"""

from __future__ import annotations

import importlib
import shutil
from typing import Any

import torch

from raytrainer.arguments.training_arguments import TrainingArguments
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
    options: DeepSpeedOptions, args: TrainingArguments, groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    """Build the optimizer of the section ``optimizer``.

    Weight decay applies to matrices only, as it does to every optimizer here.

    Args:
        options: The parsed JSON, with that section.
        args: The source of values that are "auto" in the JSON.
        groups: Parameter groups; each has its weight decay.

    Raises:
        ConfigurationError: If there is no such optimizer for the place of its state, no compiler for it, or it does not
            accept ``params``.
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
    options: DeepSpeedOptions, args: TrainingArguments, optimizer: torch.optim.Optimizer, max_steps: int
) -> Any:
    """Build the schedule of the section ``scheduler``.

    Args:
        options: The parsed JSON, with that section.
        args: The source of values that are "auto" in the JSON.
        optimizer: The optimizer whose learning rate is scheduled.
        max_steps: Optimizer steps of the whole run.

    Raises:
        ConfigurationError: If it does not accept ``params``.
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
            f"deepspeed optimizer.type={kind!r} exists for offloaded state only. Add offload_optimizer={{'device': "
            "'cpu'}, or use the optim argument."
        )
    is_on_gpu = any(parameter.device.type == "cuda" for group in groups for parameter in group["params"])
    fused = {"fused": True} if is_on_gpu and kind in ("Adam", "AdamW") else {}
    make: Any = _ON_DEVICE[kind]
    return make(groups, **fused, **params)


def _offloaded(kind: str, groups: list[dict[str, Any]], params: dict[str, Any]) -> torch.optim.Optimizer:
    if kind not in _OFFLOADED:
        raise ConfigurationError(
            f"deepspeed optimizer.type={kind!r} has no implementation for offloaded state; "
            f"{', '.join(_OFFLOADED)} have one. Remove the section to use the optim argument."
        )
    if shutil.which("c++") is None and shutil.which("g++") is None:
        raise ConfigurationError(
            f"deepspeed optimizer.type={kind!r} with offloaded state is compiled at first use, but this worker has no "
            "C++ compiler (c++, g++). Install one, or remove the section optimizer: then the optimizer of the optim "
            "argument, which needs no compiler, steps on the CPU."
        )
    module, name = _OFFLOADED[kind]
    adam = {"adamw_mode": kind == "AdamW"} if "Adam" in name else {}
    make: Any = getattr(importlib.import_module(module), name)
    return make(groups, **adam, **params)
