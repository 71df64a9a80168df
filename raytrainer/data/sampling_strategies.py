"""Which sampler each ``train_sampling_strategy`` means."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Sampler, SequentialSampler
from transformers.trainer_pt_utils import BatchRebalanceSampler

from raytrainer.arguments.seeding import data_seed
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.data.length_samplers import LengthGrouped
from raytrainer.data.sample_lengths import sample_lengths
from raytrainer.data.samplers import SeededRandomSampler


def train_sampler(dataset: Any, args: TrainingArguments, *, input_name: str | None) -> Sampler[Any]:
    """Build the sampler of the training data.

    Args:
        dataset: Has a length.
        args: Say the strategy.
        input_name: Key of a sample whose length counts.
    """
    strategy, seed = args.train_sampling_strategy, data_seed(args)
    if strategy == "sequential":
        return SequentialSampler(dataset)
    if strategy == "random":
        return SeededRandomSampler(dataset, seed)
    argument = f"train_sampling_strategy={strategy!r}"
    lengths = sample_lengths(
        dataset, column=args.length_column_name, input_name=input_name, argument=argument
    )
    ranks = args.max_workers if args.is_elastic and args.max_workers is not None else args.world_size
    step = args.train_batch_size * args.gradient_accumulation_steps * ranks
    if strategy == "group_by_length":
        return LengthGrouped(lengths, batch_size=step, seed=seed)
    return BatchRebalanceSampler(
        lengths,
        effective_batch_size=step,
        dp_size=args.world_size,
        grad_accum=args.gradient_accumulation_steps,
        seed=seed,
        rank=args.process_index,
        drop_last=args.dataloader_drop_last,
    )
