"""The keys of ``accelerator_config``: how the batches of all workers are made, and what of it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.trainer_pt_utils import AcceleratorConfig

from raytrainer.errors import ConfigurationError

REFUSED_KEYS: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_seedable_sampler": (
        (True, None),
        "ranks agree on the order of the samples because it follows from the seed and the epoch. Leave it out, or "
        "override _get_train_sampler.",
    ),
    "use_configured_state": (
        (False, None),
        "workers are bound to their process by raytrainer. Leave it out, and make no Accelerator before the Trainer.",
    ),
}
"""Key -> the values that ask for nothing, and why others are refused. ``non_blocking`` may be anything: pinned batches
are always copied that way."""

_ACCUMULATION = ("num_steps", "sync_each_batch")


def normalize_accelerator_config(args: Any) -> None:
    """Make an ``AcceleratorConfig``, and take the number of accumulated micro-batches from it, as Accelerate does.

    Raises:
        ConfigurationError: If ``gradient_accumulation_steps`` says another one, or a key is unknown.
    """
    if isinstance(args.accelerator_config, Mapping):
        args.accelerator_config = AcceleratorConfig(**args.accelerator_config)
    options = _accumulation(args)
    unknown = sorted(set(options) - set(_ACCUMULATION))
    if unknown:
        raise ConfigurationError(
            f"accelerator_config={{'gradient_accumulation_kwargs': ...}} has the keys {unknown}, and "
            f"{' and '.join(_ACCUMULATION)} are known (sync_with_dataloader and adjust_scheduler are decided by the "
            "loop). Leave them out."
        )
    steps = options.get("num_steps")
    if steps is None:
        return
    if type(steps) is not int or steps < 1:
        raise ConfigurationError(
            f"num_steps={steps!r} of gradient_accumulation_kwargs is no number of micro-batches: 1 or more was "
            "expected."
        )
    if args.gradient_accumulation_steps not in (1, steps):
        raise ConfigurationError(
            f"gradient_accumulation_steps={args.gradient_accumulation_steps} and num_steps={steps} of "
            "gradient_accumulation_kwargs contradict each other. Keep gradient_accumulation_steps alone."
        )
    args.gradient_accumulation_steps = steps


def syncs_each_batch(args: Any) -> bool:
    """Whether ranks reduce gradients after every micro-batch, and not only after the last one of a step."""
    return bool(_accumulation(args).get("sync_each_batch"))


def fills_up(args: Any) -> bool:
    """Whether the last round of a pass is filled up with samples of its start."""
    return bool(args.accelerator_config.even_batches)


def dispatches_batches(args: Any) -> bool:
    """Whether rank 0 reads for all ranks."""
    return bool(args.accelerator_config.dispatch_batches)


def check_accelerator_config(args: Any) -> None:
    """Check each key, and against the other arguments.

    Args:
        args: Training arguments, of which ``accelerator_config`` is an ``AcceleratorConfig``.

    Raises:
        ConfigurationError: For the first key that is refused or cannot be done.
    """
    config = args.accelerator_config
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
            "dispatch_batches=True deals out rounds of equal micro-batches, and "
            "train_sampling_strategy='batch_rebalance' makes them of different sizes. Drop one of the two."
        )
    if syncs_each_batch(args) and args.zero is not None:
        raise ConfigurationError(
            "sync_each_batch=True of gradient_accumulation_kwargs is not available under ZeRO, which itself decides "
            "when gradients are reduced: under stages 2 and 3 in every micro-batch. Leave it out."
        )


def _accumulation(args: Any) -> Mapping[str, Any]:
    return args.accelerator_config.gradient_accumulation_kwargs or {}


def check_split(args: Any, num_ranks: int) -> None:
    """With ``split_batches``, a batch for all workers must be cut evenly.

    Raises:
        ConfigurationError: If it cannot.
    """
    if not args.accelerator_config.split_batches:
        return
    if args.auto_find_batch_size:
        raise ConfigurationError(
            "split_batches=True fixes the batch of all workers, and auto_find_batch_size=True makes it smaller. Drop "
            "one of the two."
        )
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        size = getattr(args, name)
        if size % num_ranks:
            raise ConfigurationError(
                f"split_batches=True cuts a batch into one part for each worker, and {name}={size} cannot be cut into "
                f"{num_ranks}. Set it to a multiple of {num_ranks}."
            )


def _check_uneven(args: Any) -> None:
    """Samples count the same, whoever has them, where what they count is known."""
    for name, is_so, why in (
        (
            "train_sampling_strategy='batch_rebalance'",
            args.train_sampling_strategy == "batch_rebalance",
            "gives every micro-batch a sample",
        ),
        (
            "average_tokens_across_devices=False",
            not args.average_tokens_across_devices,
            "divides by the targets of each worker alone, and one may have none",
        ),
        (
            "dataloader_in_order=False",
            not args.dataloader_in_order,
            "does not tell which micro-batch is the short one",
        ),
    ):
        if is_so:
            raise ConfigurationError(
                f"even_batches=False leaves the last round of the data short of samples, and {name} {why}. Drop one "
                "of the two."
            )
