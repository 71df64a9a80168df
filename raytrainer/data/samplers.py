"""The order of samples, and which of them belong to which rank.

One permutation per epoch, drawn from ``seed + epoch`` alone, is the same on every rank and in every attempt. Step
``t`` of an epoch owns the ``t``-th global batch of it, and each rank takes its slice. The order equals the one of
``transformers.Trainer`` (accelerate's seedable sampler and batch shards), and because it is index arithmetic, a
run can start at any sample without reading the samples before it.

Pure index arithmetic: no process group, no dataset access.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized

import torch
from torch.utils.data import Sampler

from raytrainer.data.rounds import part_of


class SeededRandomSampler(Sampler[int]):
    """A permutation of a sized dataset, drawn anew for each epoch from ``seed + epoch``.

    Args:
        data_source: Anything with a length.
        seed: The run's data seed.
    """

    def __init__(self, data_source: Sized, seed: int) -> None:
        self.data_source = data_source
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data_source)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self.seed + self.epoch)
        yield from torch.randperm(len(self.data_source), generator=generator).tolist()


class RankBatchSampler:
    """This rank's micro-batches of an epoch.

    The samples are cut into micro-batches of ``batch_size``; rank ``r`` of ``W`` takes micro-batches ``r, r + W,
    r + 2W, ...``. With several ranks the order is filled up from its own start to a multiple of ``W * batch_size``,
    so that every rank has the same number of full micro-batches; one rank alone gets a short last one.

    Args:
        sampler: Yields the sample indices of an epoch, the same on every rank.
        batch_size: Samples of one micro-batch on one rank.
        drop_last: Drop what does not fill a global batch instead of filling it up.
        rank: This rank.
        world_size: Number of ranks.
        fills_up: Fill up the last round; otherwise ranks get what there is, or a stand-in (``rounds``).
        whole_rounds: Yield what all ranks take, one after the other, and not only this rank's part.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        *,
        batch_size: int,
        drop_last: bool,
        rank: int,
        world_size: int,
        fills_up: bool = True,
        whole_rounds: bool = False,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.fills_up = fills_up
        self.whole_rounds = whole_rounds
        self._skip_samples = 0

    @property
    def round_size(self) -> int:
        """Samples that all ranks together take with one micro-batch each."""
        return self.batch_size * self.world_size

    def set_epoch(self, epoch: int) -> None:
        set_epoch = getattr(self.sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)

    def skip_next(self, num_samples: int) -> None:
        """Begin the next iteration (and only that one) after ``num_samples`` samples of the global order."""
        self._skip_samples = num_samples

    def num_samples(self) -> int:
        """Samples of one epoch over all ranks, those that fill up the last round included."""
        total = len(self.sampler)  # type: ignore[arg-type]
        if self.drop_last:
            return total - total % self.round_size
        if self.world_size == 1 or not self.fills_up:
            return total
        return -(-total // self.round_size) * self.round_size

    def __len__(self) -> int:
        return -(-self.num_samples() // self.round_size)

    def __iter__(self) -> Iterator[list[int]]:
        skip, self._skip_samples = self._skip_samples, 0
        order = list(self.sampler)
        total = self.num_samples()
        for start in range(skip, total, self.round_size):
            samples = order[start : min(start + self.round_size, total)]
            missing = min(self.round_size, total - start) - len(samples)
            if missing > 0:
                samples += itertools.islice(itertools.cycle(order), missing)
            yield samples if self.whole_rounds else self._part(samples)

    def _part(self, samples: list[int]) -> list[int]:
        return part_of(samples, rank=self.rank, batch_size=self.batch_size)

    def real_samples(self, first: int = 0) -> Iterator[int]:
        """Samples that are no fill-up, of each round that an iteration yields.

        Args:
            first: Samples of the global order before it.
        """
        num_samples = len(self.sampler)  # type: ignore[arg-type]
        for start in range(first, self.num_samples(), self.round_size):
            yield max(0, min(self.round_size, num_samples - start))
