"""Which modules of a model are units of sharding: gathered before their forward pass and freed after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import nn

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.dialects.fsdp import ShardingOptions
from raytrainer.errors import ConfigurationError

DEFAULT_MIN_NUM_PARAMS = 100_000_000
"""Accelerate's default size of a unit when units are chosen by size."""


def choose_units(model: nn.Module, options: ShardingOptions) -> list[nn.Module]:
    """Choose the units below the model itself, innermost first.

    Raises:
        ConfigurationError: If a class is asked for that the model does not have, or it declares none.
    """
    if options.wrap == "none":
        return []
    if options.wrap == "size":
        return _by_size(model, options.min_num_params or DEFAULT_MIN_NUM_PARAMS)
    wanted = set(options.layer_classes) or _declared(model)
    present = Counter(type(module).__name__ for module in model.modules() if module is not model)
    if not wanted:
        raise ConfigurationError(
            f"fsdp wraps transformer blocks, but {type(model).__name__} declares none. Name their classes with "
            f"fsdp_config={{'transformer_layer_cls_to_wrap': [...]}}; it has {_shown(present)}. Or choose "
            "auto_wrap_policy='SIZE_BASED_WRAP' with min_num_params, or 'NO_WRAP'."
        )
    missing = wanted - present.keys() if options.layer_classes else set[str]()
    if missing or not wanted & present.keys():
        raise ConfigurationError(
            f"fsdp_config transformer_layer_cls_to_wrap: {type(model).__name__} has no module of class "
            f"{', '.join(sorted(missing or wanted))}. It has {_shown(present)}."
        )
    return [module for module in _innermost_first(model) if type(module).__name__ in wanted]


def check_sharding(
    args: TrainingArguments, options: ShardingOptions, model: Any, *, has_optimizer: bool
) -> None:
    """Check, before there are workers, that a model can be sharded as far as is known by then.

    Args:
        args: The arguments, resolved or not.
        options: Their settings of FSDP.
        model: The user's model; its name, or None, if it is made on the workers.
        has_optimizer: The user passed an optimizer instance.

    Raises:
        ConfigurationError: If the model has no such units, or an argument excludes sharding.
    """
    if args.mixed_precision == "fp16":
        raise ConfigurationError(
            "fsdp with fp16 is not available: its loss scaling was never run on sharded gradients. Use bf16=True."
        )
    if has_optimizer:
        raise ConfigurationError(
            "optimizers= holds an optimizer of the full parameters, and fsdp replaces them by shards, which it would "
            "never step. Pass optimizer_cls_and_kwargs=(class, options), or override create_optimizer."
        )
    size = options.hybrid_shard_size
    if size is not None and args.max_workers:
        check_groups(args.max_workers, size)
    if isinstance(model, nn.Module):
        choose_units(model, options)


def check_groups(world_size: int, size: int) -> None:
    """Check that the ranks divide into several groups of equal size, each of which shards.

    Raises:
        ConfigurationError: If they do not.
    """
    if world_size % size or world_size == size:
        raise ConfigurationError(
            f"Hybrid sharding over {world_size} workers in groups of {size} (by default those of a node) leaves "
            "nothing to replicate, or does not divide evenly. Set fsdp_config={'hybrid_shard_size': n} with n that "
            "divides the number of workers and is smaller, or use full_shard."
        )


def _declared(model: nn.Module) -> set[str]:
    get_base: Any = getattr(model, "get_base_model", None)  # PEFT's
    base: nn.Module = model if get_base is None else get_base()
    names: Iterable[str] = getattr(base, "_no_split_modules", None) or ()
    return set(names)


def _by_size(model: nn.Module, smallest: int) -> list[nn.Module]:
    """Greedy from the leaves: a module is a unit if its parameters outside of units below it are large enough."""
    units: list[nn.Module] = []

    def visit(module: nn.Module) -> int:
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        rest = own + sum(visit(child) for child in module.children())
        # Containers have no forward pass of their own, before which they could be gathered.
        if module is not model and rest >= smallest and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            units.append(module)
            return 0
        return rest

    visit(model)
    return units


def _innermost_first(model: nn.Module) -> Iterable[nn.Module]:
    return reversed([module for module in model.modules() if module is not model])


def _shown(present: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" if count > 1 else name for name, count in present.most_common(12))
