"""The order of samples in which batches hold samples of about the same length, so that little is padding.

Pure index arithmetic on lengths: one order per epoch, drawn from ``seed + epoch`` alone, the same on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from raytrainer.errors import ConfigurationError

POOL_BATCHES = 50
"""Batches whose samples are sorted together: more of them pad less and mix less."""


class SortishSampler(Sampler[int]):
    """Random pools of samples, sorted by length within a pool and cut into batches, the batches in random order.

    The batch with the longest sample comes first, so that a run that lacks memory fails in its first step. The
    scheme is that of fastai's and transformers' sampler of this name.

    Args:
        lengths: Of every sample [tokens].
        batch_size: Samples of one optimizer step over all ranks: then the order does not depend on their number.
        seed: The run's data seed.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self), generator=generator)
        pools = order.split(self.batch_size * POOL_BATCHES)
        by_length = [pool[self.lengths[pool].argsort(descending=True, stable=True)] for pool in pools]
        batches = list(torch.cat(by_length).split(self.batch_size))
        # One that is not full comes last, else all batches after it would be cut elsewhere.
        short = batches.pop() if len(batches[-1]) < self.batch_size else order[:0]
        if batches:
            longest = max(range(len(batches)), key=lambda index: int(self.lengths[batches[index]].max()))
            yield from batches.pop(longest).tolist()
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[index].tolist()
        yield from short.tolist()


def sample_lengths(dataset: Any, *, column: str, main_input: str) -> list[int]:
    """The length of every sample: what a column says, else the length of the model's main input [tokens].

    Args:
        dataset: Sized, of mappings. A ``datasets.Dataset`` is read column by column.
        column: Holds lengths, if it is there.
        main_input: For instance ``input_ids``.

    Raises:
        ConfigurationError: If samples have neither.
    """
    names = getattr(dataset, "column_names", None)
    if names is not None and column in names:
        return list(dataset[column])
    if names is not None and main_input in names:
        return [len(row) for row in dataset[main_input]]
    try:
        rows = (dataset[index] for index in range(len(dataset)))
        return [int(row[column]) if column in row else len(row[main_input]) for row in rows]
    except KeyError as error:
        raise ConfigurationError(
            f"sortish_sampler=True needs the length of each sample, and a sample has neither {column!r} "
            f"(length_column_name) nor {main_input!r}. Add such a column, or leave sortish_sampler out."
        ) from error
