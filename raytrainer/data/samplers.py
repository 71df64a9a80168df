"""The order of samples, and which of them belong to which rank.

One permutation per epoch, drawn from ``seed + epoch`` alone, is the same on every rank and in every attempt. Step
``t`` of an epoch uses its ``t``-th global batch, of which each rank takes a slice. The order equals that of
``transformers.Trainer`` (accelerate's seedable sampler and batch shards). Because it is index arithmetic, without a
process group or access to the dataset, a run can start at any sample without reading the samples before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized
from typing import cast

import torch
from torch.utils.data import Sampler

from raytrainer.data.batch_split import BatchSplit


class EpochSampler(Sampler[int]):
    """An order that is drawn anew for each epoch, from ``seed + epoch`` alone.

    Args:
        count: Number of samples.
        seed: The run's data seed.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def generator(self) -> torch.Generator:
        """Return the generator that the order of this epoch is drawn from."""
        return torch.Generator().manual_seed(self.seed + self.epoch)

    def __len__(self) -> int:
        return self.count


class SeededRandomSampler(EpochSampler):
    """A permutation.

    Args:
        data_source: Anything with a length.
        seed: The run's data seed.
    """

    def __init__(self, data_source: Sized, seed: int) -> None:
        super().__init__(len(data_source), seed)
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        yield from cast("list[int]", torch.randperm(self.count, generator=self.generator()).tolist())


class RankBatchSampler:
    """This rank's micro-batches of an epoch.

    The samples are split into micro-batches; rank ``r`` of ``W`` takes micro-batches ``r, r + W, r + 2W, ...``. With
    several ranks the order is filled up from its own start to whole rounds (``rounds``), so that every rank has the
    same number of full micro-batches; a single rank gets a short last one.

    Args:
        sampler: Yields the sample indices of an epoch, the same on every rank.
        split: Decides which of them this rank takes.
    """

    def __init__(self, sampler: Sampler[int], split: BatchSplit) -> None:
        self.sampler = sampler
        self.split = split
        self._skip_samples = 0

    def set_epoch(self, epoch: int) -> None:
        set_epoch = getattr(self.sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)

    def skip_next(self, num_samples: int) -> None:
        """Begin the next iteration (and only that one) after ``num_samples`` samples of the global order."""
        self._skip_samples = num_samples

    def num_samples(self) -> int:
        """Return the number of samples of one epoch over all ranks, including fill-ups of the last round."""
        total = len(self.sampler)  # pyright: ignore[reportArgumentType]
        if self.split.drop_last:
            return total - total % self.split.round_size
        if not self.split.has_fill_ups:
            return total
        return -(-total // self.split.round_size) * self.split.round_size

    def __len__(self) -> int:
        return -(-self.num_samples() // self.split.round_size)

    def __iter__(self) -> Iterator[list[int]]:
        skip, self._skip_samples = self._skip_samples, 0
        order = list(self.sampler)
        total = self.num_samples()
        for start in range(skip, total, self.split.round_size):
            stop = min(start + self.split.round_size, total)
            samples = order[start:stop]
            samples += itertools.islice(itertools.cycle(order), stop - start - len(samples))
            yield self.split.taken_of(samples)

    def real_samples(self, first: int = 0) -> Iterator[int]:
        """Yield, for each round of an iteration, its number of samples without fill-ups.

        Args:
            first: Number of samples of the global order to skip.
        """
        num_samples = len(self.sampler)  # pyright: ignore[reportArgumentType]
        for start in range(first, self.num_samples(), self.split.round_size):
            yield max(0, min(self.split.round_size, num_samples - start))
