"""The order of samples, and which of them belong to which rank.

One permutation per epoch, drawn from ``seed + epoch`` alone, is the same on every rank and in every attempt. Step
``t`` of an epoch uses its ``t``-th global batch, of which each rank takes a slice. The order equals that of
``transformers.Trainer`` (accelerate's seedable sampler and batch shards). Because it is index arithmetic, without a
process group or access to the dataset, a run can start at any sample without reading the samples before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence, Sized
from typing import cast

import torch
from torch.utils.data import Sampler

from raytrainer.data.batch_split import BatchSplit
from raytrainer.data.dealing import Turn
from raytrainer.data.draws import Place
from raytrainer.data.own_generators import OwnGenerators
from raytrainer.random_state import HostRandomState, drawing_from


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
    same number of full micro-batches; a single rank gets a short last one. Where the number of ranks may change, rounds
    are those of the largest number, and this rank takes its turns of them (``dealing``).

    Args:
        sampler: Yields the sample indices of an epoch, the same on every rank.
        split: Decides which of them this rank takes.
    """

    def __init__(self, sampler: Sampler[int], split: BatchSplit) -> None:
        self.sampler = sampler
        self.split = split
        self.own = OwnGenerators(sampler=sampler)
        self.epoch = 0
        self._skip_samples = 0
        self._began: HostRandomState | None = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        set_epoch = getattr(self.sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)

    def skip_next(self, num_samples: int, began: HostRandomState | None = None) -> None:
        """Begin the next iteration (and only that one) in the middle of the order.

        Args:
            num_samples: Samples of the global order to leave out.
            began: The random state with which the pass over the data began: a sampler of the user's may draw its order
                from it.
        """
        self._skip_samples, self._began = num_samples, began

    def num_samples(self) -> int:
        """Return the number of samples of one epoch over all ranks, including fill-ups of the last round."""
        total = len(self.sampler)  # pyright: ignore[reportArgumentType]
        if self.split.drop_last:
            return total - total % self.split.round_size
        if not self.split.has_fill_ups:
            return total
        return -(-total // self.split.round_size) * self.split.round_size

    def __len__(self) -> int:
        return self.split.num_turns(self.num_samples())

    def __iter__(self) -> Iterator[list[int]]:
        for places in self.places():
            yield [place.index for place in places]

    def places(self) -> Iterator[list[Place]]:
        """Yield the places of the samples of each micro-batch."""
        skip, self._skip_samples = self._skip_samples, 0
        began, self._began = self._began, None
        with drawing_from(began, self.own):
            order = list(self.sampler)
        length, epoch, total = len(order), self.epoch, self.num_samples()
        for start, turn in self._turns(skip):
            positions = self._positions(start, turn, total)
            yield [Place(order[position % length], position, epoch) for position in positions]

    def positions(self, start: int, turn: Turn) -> list[int]:
        """The positions that this rank reads in one of its turns, of a round that begins at a position."""
        return list(self._positions(start, turn, self.num_samples()))

    def _positions(self, start: int, turn: Turn, total: int) -> Sequence[int]:
        split = self.split
        positions = range(start, min(start + split.batch_size * split.world_size, total))
        return positions if split.takes_rounds else split.part_of(positions, turn.part)

    def turn_at(self, micro_batch: int) -> tuple[int, Turn] | None:
        """The first position of the round of a micro-batch of this rank, and its turn; None after the last."""
        return next(itertools.islice(self._turns(0), micro_batch, None), None)

    def _turns(self, skip: int) -> Iterator[tuple[int, Turn]]:
        """The first position of the round of each micro-batch of this rank, and its turn."""
        size, total = self.split.round_size, self.num_samples()
        if self.split.dealing is None:
            turn = Turn(0, self.split.rank)
            for first in range(skip, total, size):
                yield first, turn
            return
        for first in range(skip, total, size * self.split.step_rounds):
            rounds = min(self.split.step_rounds, -(-(total - first) // size))
            for turn in self.split.turns(rounds):
                yield first + turn.round * size, turn

    def rounds(self, skip: int = 0) -> Iterator[tuple[int, Turn]]:
        """Yield, for each micro-batch of an iteration, the samples of its round without fill-ups, and its turn.

        Args:
            skip: Number of samples of the global order that are left out.
        """
        num_samples, size = len(self.sampler), self.split.round_size  # pyright: ignore[reportArgumentType]
        for start, turn in self._turns(skip):
            yield max(0, min(size, num_samples - start)), turn
