"""The keys of ``accelerator_config``: how the batches of all workers are made, and which values are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from transformers.trainer_pt_utils import AcceleratorConfig

from raytrainer.arguments.seeding import data_seed
from raytrainer.dialects.accelerate_sharding import PLUGIN_KINDS, SHARDING_ARGUMENTS
from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


REFUSED_KEYS: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_seedable_sampler": (
        (True, None),
        "ranks agree on the order of the samples because it follows from the seed and the epoch. Leave it out, or "
        "override _get_train_sampler.",
    ),
}
"""Key -> the values that change nothing, and why others are refused. ``non_blocking`` may have any value: pinned
batches are always copied asynchronously."""

_ACCUMULATION = ("num_steps", "sync_each_batch")
_WITHOUT_EFFECT = ("sync_with_dataloader", "adjust_scheduler")
"""Options of accelerate's own loop, which a Trainer does not use: any value is accepted, as in ``transformers``."""


def normalize_accelerator_config(args: TrainingArguments) -> None:
    """Make an ``AcceleratorConfig``, and take the number of accumulated micro-batches from it, as Accelerate does.

    Raises:
        ConfigurationError: If ``gradient_accumulation_steps`` has a different value, or a key is unknown.
    """
    given = cast("object", args.accelerator_config)
    if isinstance(given, Mapping):
        config = AcceleratorConfig(**cast("Mapping[str, Any]", given))
        args.accelerator_config = config  # pyright: ignore[reportAttributeAccessIssue]
    options = _accumulation(args)
    unknown = sorted(set(options) - {*_ACCUMULATION, *_WITHOUT_EFFECT})
    if unknown:
        raise ConfigurationError(
            f"accelerator_config={{'gradient_accumulation_kwargs': ...}} has the unknown keys {unknown}; "
            f"only {' and '.join(_ACCUMULATION)} can be set. Leave them out."
        )
    steps = options.get("num_steps")
    if steps is None:
        return
    if type(steps) is not int or steps < 1:
        raise ConfigurationError(
            f"num_steps={steps!r} in gradient_accumulation_kwargs is not a valid number of micro-batches: a whole "
            "number of 1 or more was expected. Change it, or set gradient_accumulation_steps instead."
        )
    if args.gradient_accumulation_steps not in (1, steps):
        raise ConfigurationError(
            f"gradient_accumulation_steps={args.gradient_accumulation_steps} and num_steps={steps} in "
            "gradient_accumulation_kwargs contradict each other. Keep only gradient_accumulation_steps."
        )
    args.gradient_accumulation_steps = steps


def config_of(args: TrainingArguments) -> AcceleratorConfig:
    """Return ``args.accelerator_config`` of normalized arguments as the object that it is by then."""
    return cast("AcceleratorConfig", args.accelerator_config)


def syncs_each_batch(args: TrainingArguments) -> bool:
    """Whether ranks reduce gradients after every micro-batch, rather than only after the last one of a step."""
    return bool(_accumulation(args).get("sync_each_batch"))


def fills_up(args: TrainingArguments) -> bool:
    """Whether the last round of a pass over the data is padded with samples from its start."""
    return bool(config_of(args).even_batches)


def dispatches_batches(args: TrainingArguments) -> bool:
    """Whether rank 0 reads the data of all ranks."""
    return bool(config_of(args).dispatch_batches)


def loader_configuration(args: TrainingArguments) -> DataLoaderConfiguration:
    """How ``accelerator.prepare`` divides a loader of the user's: in the order of the trainer's own.

    Such a loader is filled up whatever ``even_batches`` says: a rank that runs out of batches would block the others,
    and only the trainer's own loaders have placeholders.
    """
    config = config_of(args)
    return DataLoaderConfiguration(
        split_batches=bool(config.split_batches),
        dispatch_batches=config.dispatch_batches,  # pyright: ignore[reportArgumentType]  None lets the data decide
        use_seedable_sampler=config.use_seedable_sampler is not False,
        data_seed=data_seed(args),
        non_blocking=bool(config.non_blocking),
    )


def check_accelerator_config(args: TrainingArguments) -> None:
    """Check each key, by itself and against the other arguments.

    Args:
        args: Training arguments whose ``accelerator_config`` is an ``AcceleratorConfig``.

    Raises:
        ConfigurationError: For the first key that is refused or contradicts another argument.
    """
    config = config_of(args)
    for key, (harmless, why) in REFUSED_KEYS.items():
        if getattr(config, key, None) not in harmless:
            raise ConfigurationError(
                f"`accelerator_config` with {key}={getattr(config, key)!r} is not available: {why}"
            )
    check_split(args, args.world_size)
    if not config.even_batches:
        _check_uneven(args)
    if config.dispatch_batches and args.train_sampling_strategy == "batch_rebalance":
        raise ConfigurationError(
            "dispatch_batches=True needs micro-batches of equal size, but "
            "train_sampling_strategy='batch_rebalance' makes them of different sizes. Drop one of the two."
        )
    if syncs_each_batch(args) and args.zero is not None:
        raise ConfigurationError(
            "sync_each_batch=True in gradient_accumulation_kwargs is not available with ZeRO, which decides by itself "
            "when gradients are reduced (stages 2 and 3: after every micro-batch). Leave it out."
        )


def check_configured_state(args: TrainingArguments) -> None:
    """``use_configured_state`` asks for the Accelerator that this process has: it must be what the arguments ask for.

    Arguments alone may ask, also where there is none: libraries compare theirs with defaults made so.

    Raises:
        ConfigurationError: If it has another precision or device, or shards.
    """
    if not config_of(args).use_configured_state or AcceleratorState._shared_state == {}:
        return
    found = cast("Mapping[str, Any]", AcceleratorState._shared_state)
    kind = str(getattr(found["distributed_type"], "value", found["distributed_type"]))
    stays_on_cpu = found["device"].type == "cpu" and torch.cuda.is_available() and args.num_workers == 0
    if found["_mixed_precision"] != args.mixed_precision:
        conflict = f"the precision {found['_mixed_precision']!r} where they ask for {args.mixed_precision!r}"
    elif stays_on_cpu and not args.use_cpu:
        conflict = "the CPU where they ask for a GPU"
    elif kind in PLUGIN_KINDS:
        conflict = f"the plugin of {kind}"
    else:
        return
    raise ConfigurationError(
        f"use_configured_state=True asks for the Accelerator of this process, but raytrainer makes its own one from "
        f"the arguments, and that of this process has {conflict}. Ask for the same in TrainingArguments "
        f"({', '.join(('bf16', 'fp16', 'use_cpu', *SHARDING_ARGUMENTS))}), and leave use_configured_state out."
    )


def _accumulation(args: TrainingArguments) -> Mapping[str, Any]:
    given: object = getattr(config_of(args), "gradient_accumulation_kwargs", None)
    return cast("Mapping[str, Any]", given or {})


def check_split(args: TrainingArguments, num_ranks: int) -> None:
    """With ``split_batches``, the batch of all workers must divide evenly.

    Args:
        args: Training arguments whose ``accelerator_config`` is an ``AcceleratorConfig``.
        num_ranks: Number of workers.

    Raises:
        ConfigurationError: If it does not.
    """
    if not config_of(args).split_batches:
        return
    if args.auto_find_batch_size:
        raise ConfigurationError(
            "split_batches=True fixes the batch of all workers, but auto_find_batch_size=True may make it smaller. "
            "Drop one of the two."
        )
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        size = getattr(args, name)
        if size % num_ranks:
            raise ConfigurationError(
                f"split_batches=True splits a batch among the workers, but {name}={size} is not divisible by "
                f"{num_ranks}. Set it to a multiple of {num_ranks}."
            )


def _check_uneven(args: TrainingArguments) -> None:
    """Without ``even_batches``, samples count the same on every rank only if the sizes of micro-batches are known."""
    for name, is_so, why in (
        (
            "train_sampling_strategy='batch_rebalance'",
            args.train_sampling_strategy == "batch_rebalance",
            "needs at least one sample in every micro-batch",
        ),
        (
            "average_tokens_across_devices=False",
            not args.average_tokens_across_devices,
            "divides by the number of targets of each worker, which may be zero",
        ),
        (
            "dataloader_in_order=False",
            not args.dataloader_in_order,
            "does not reveal which micro-batch is the short one",
        ),
    ):
        if is_so:
            raise ConfigurationError(
                f"even_batches=False leaves the last round of the data short of samples, but {name} {why}. Drop one "
                "of the two."
            )
