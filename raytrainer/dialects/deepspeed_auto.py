"""The values of a DeepSpeed config that follow from the arguments, the model and the length of the run.

"auto" is replaced, what is left out is added where the engine needs it, and a value that is given in both places must
be the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from raytrainer.dialects.deepspeed import DeepSpeedOptions, auto_paths
from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


def check_against(options: DeepSpeedOptions, args: TrainingArguments, *, world_size: int | None) -> None:
    """Check that a DeepSpeed config and the arguments do not contradict each other.

    Args:
        options: The config.
        args: Training arguments.
        world_size: Number of ranks, or None if it is not known yet.

    Raises:
        ConfigurationError: Lists all values that differ.
    """
    known = _from_arguments(args, world_size)
    differing: list[str] = []
    for path, (value, name) in known.items():
        found = _get(options.config, path)
        if found in (None, "auto") or value is None or _equal(found, value):
            continue
        differing.append(f"{path}={found!r}, but {name} is {value!r}")
    if differing:
        raise ConfigurationError(
            f'deepspeed contradicts the arguments: {"; ".join(differing)}. Keep one of the two, or write "auto" in '
            "the DeepSpeed config."
        )


def engine_config(
    options: DeepSpeedOptions, args: TrainingArguments, *, world_size: int, model: object
) -> dict[str, Any]:
    """Make the config for DeepSpeed's engine, without the sections that this package handles itself.

    Args:
        options: What was asked for; not changed.
        args: Resolved arguments.
        world_size: Number of ranks.
        model: The model, whose config has the hidden size.

    Raises:
        ConfigurationError: If two values contradict each other, or the model has no hidden size for an "auto".
    """
    check_against(options, args, world_size=world_size)
    config = copy.deepcopy(options.config)
    # Optimizer and schedule are built here, from the same sections (``backends.zero.config_sections``).
    for section in ("optimizer", "scheduler"):
        config.pop(section, None)
    for path, (value, _) in _from_arguments(args, world_size).items():
        if path.partition(".")[0] in ("optimizer", "scheduler"):
            continue
        section, _, key = path.rpartition(".")
        node = config.setdefault(section, {}) if section else config
        if node.get(key) in (None, "auto"):
            node[key] = value
    _fill_sizes(config, model)
    # Otherwise the engine prints by itself, rejects most optimizers of the catalogue, and with offload requires an
    # optimizer that must be compiled first.
    config.setdefault("steps_per_print", None)
    config["zero_allow_untested_optimizer"] = True
    config["zero_force_ds_cpu_optimizer"] = False
    return config


def section_params(
    section: dict[str, Any], args: TrainingArguments, *, max_steps: int | None = None
) -> dict[str, Any]:
    """Return the ``params`` of an ``optimizer`` or ``scheduler`` section, with "auto" filled in.

    Args:
        section: The section of the config.
        args: Training arguments.
        max_steps: Number of optimizer steps of the run, for a schedule.
    """
    given: dict[str, Any] = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        "weight_decay": args.weight_decay,
        "warmup_min_lr": 0.0,
        "warmup_max_lr": args.learning_rate,
    }
    if max_steps is not None:
        # DeepSpeed takes no warmup of 0 steps.
        given |= {"warmup_num_steps": max(1, args.get_warmup_steps(max_steps)), "total_num_steps": max_steps}
    return {key: given[key] if value == "auto" else value for key, value in section["params"].items()}


def _from_arguments(args: TrainingArguments, world_size: int | None) -> dict[str, tuple[Any, str]]:
    """Path of a value -> the value, and the argument that it comes from."""
    micro, accumulation = args.train_batch_size, args.gradient_accumulation_steps
    return {
        "train_micro_batch_size_per_gpu": (micro, "per_device_train_batch_size"),
        "gradient_accumulation_steps": (accumulation, "gradient_accumulation_steps"),
        "train_batch_size": (
            None if world_size is None else micro * accumulation * world_size,
            "per_device_train_batch_size x gradient_accumulation_steps x workers",
        ),
        "gradient_clipping": (float(args.max_grad_norm), "max_grad_norm"),
        "bf16.enabled": (args.mixed_precision == "bf16", "bf16"),
        "fp16.enabled": (args.mixed_precision == "fp16", "fp16"),
        "optimizer.params.lr": (args.learning_rate, "learning_rate"),
        "optimizer.params.betas": ([args.adam_beta1, args.adam_beta2], "adam_beta1, adam_beta2"),
        "optimizer.params.eps": (args.adam_epsilon, "adam_epsilon"),
        "optimizer.params.weight_decay": (args.weight_decay, "weight_decay"),
        "scheduler.params.warmup_max_lr": (args.learning_rate, "learning_rate"),
    }


def check_sizes(options: DeepSpeedOptions, model: object) -> None:
    """Check, on a driver, that a model has the sizes for every "auto".

    Raises:
        ConfigurationError: If its config has no hidden size.
    """
    _fill_sizes(copy.deepcopy(options.config), model)


def _fill_sizes(config: dict[str, Any], model: object) -> None:
    zero = config["zero_optimization"]
    wanted = [path for path in auto_paths(config) if path.startswith("zero_optimization.")]
    if not wanted:
        return
    hidden = hidden_size(model)
    if hidden is None:
        raise ConfigurationError(
            f'deepspeed: the config of {type(model).__name__} has no hidden_size, from which "auto" is computed at '
            f"{', '.join(wanted)}. Write a number there."
        )
    sizes = {
        "reduce_bucket_size": hidden * hidden,
        "stage3_prefetch_bucket_size": int(0.9 * hidden * hidden),
        "stage3_param_persistence_threshold": 10 * hidden,
    }
    for path in wanted:
        key = path.partition(".")[2]
        zero[key] = sizes[key]


def hidden_size(model: object) -> int | None:
    """Return the hidden size that a model's config declares, the largest if there are several."""
    config: Any = getattr(model, "config", None)
    candidates: list[Any] = [config, getattr(config, "text_config", None)]
    for found in candidates:
        if getattr(found, "hidden_size", None):
            return int(found.hidden_size)
        if getattr(found, "hidden_sizes", None):
            return int(max(found.hidden_sizes))
    return None


def _get(config: dict[str, Any], path: str) -> Any:
    node: Any = config
    for key in path.split("."):
        if not isinstance(node, dict):
            return None
        node = cast("dict[str, Any]", node).get(key)
    return node


def _equal(found: Any, value: Any) -> bool:
    if isinstance(value, list):
        if not isinstance(found, list | tuple):
            return False
        ours, theirs = cast("list[Any]", value), cast("Sequence[Any]", found)
        return len(theirs) == len(ours) and all(map(_equal, theirs, ours))
    if isinstance(value, bool) or isinstance(found, bool | str):
        return found == value
    return isinstance(found, int | float) and math.isclose(found, value)
