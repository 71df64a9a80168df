"""Which arguments fit a number of workers that changes.

The optimizer steps of an elastic run are those of a run with the largest number of workers, whatever its present number
is: the same samples in the same order, the same schedule, the same number of steps. So arguments are refused whose
meaning depends on the present number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrainer.arguments.accelerator_config import config_of
from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


def check_elastic(args: TrainingArguments) -> None:
    """Refuse what does not work on a number of workers that changes.

    Args:
        args: Training arguments that were normalized.

    Raises:
        ConfigurationError: For the first such argument.
    """
    if not args.is_elastic:
        return
    if args.elastic_timeout_s > args.placement_timeout_s:
        raise ConfigurationError(
            f"elastic_timeout_s={args.elastic_timeout_s:g} is longer than placement_timeout_s="
            f"{args.placement_timeout_s:g}, after which a run without room ends, so fewer workers would never be "
            "taken. Lower it, or raise placement_timeout_s."
        )
    for is_asked, what, why in _refusals(args):
        if is_asked:
            raise ConfigurationError(
                f"num_workers={args.num_workers!r} lets the number of workers change, which is not available with "
                f"{what}: {why} Or train on a fixed number, num_workers={args.max_workers}."
            )


def _refusals(args: TrainingArguments) -> list[tuple[bool, str, str]]:
    sharding = args.sharding
    return [
        (
            args.zero is not None,
            "deepspeed",
            "its engine has every worker take the same number of micro-batches in a step. Use fsdp=True, which shards "
            "the model too.",
        ),
        (
            sharding is not None and sharding.is_hybrid,
            "hybrid sharding",
            "its groups must divide the number of workers, whatever that is. Use fsdp=True.",
        ),
        (
            bool(config_of(args).split_batches),
            "split_batches=True",
            "a batch would be divided among another number of workers. Leave it out: the batch of a step is that of "
            "the largest number of workers anyway.",
        ),
        (
            bool(config_of(args).dispatch_batches),
            "dispatch_batches=True",
            "each worker reads the samples of its turns. Leave it out.",
        ),
        (
            args.train_sampling_strategy == "batch_rebalance",
            "train_sampling_strategy='batch_rebalance'",
            "its micro-batches are made for one number of workers. Use 'group_by_length'.",
        ),
        (
            not args.average_tokens_across_devices,
            "average_tokens_across_devices=False",
            "losses would be divided by the tokens of one worker's micro-batches. Leave it out.",
        ),
        (
            args.auto_find_batch_size,
            "auto_find_batch_size=True",
            "the batch that fits may be another one for each number of workers. Set per_device_train_batch_size.",
        ),
        (
            args.save_only_model,
            "save_only_model=True",
            "after a change a run goes on from a checkpoint, which needs the state of the optimizer. Leave it out.",
        ),
    ]


def check_fixed(args: TrainingArguments, where: str, why: str) -> None:
    """Refuse a number of workers that changes where only a fixed one works.

    Args:
        args: Training arguments.
        where: What they are used for, in words.
        why: Why the number is fixed there, in words.

    Raises:
        ConfigurationError: If the number of workers may change.
    """
    if args.is_elastic:
        raise ConfigurationError(
            f"num_workers={args.num_workers!r} lets the number of workers change, but in {where} {why}. Give one "
            f"number, for instance num_workers={args.max_workers}."
        )
