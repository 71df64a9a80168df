"""A rank's share of a dataset that can only be read from its start.

Every rank reads the stream and keeps its slice of each round of ``world_size * batch_size`` samples, in the same
order as the map-style shards. The last round is filled up with samples of the first, and each sample travels with a
mark that tells whether it is such a fill-up, so that evaluation can leave fill-ups out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import IterableDataset


class RankStream(IterableDataset[tuple[bool, Any]]):
    """Yields ``(is_real, sample)`` pairs of one rank.

    Args:
        dataset: The stream, the same on every rank.
        batch_size: Samples of one micro-batch on one rank.
        drop_last: Drop an incomplete last round.
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(
        self, dataset: Iterable[Any], *, batch_size: int, drop_last: bool, rank: int, world_size: int
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self._skip_samples = 0

    def set_epoch(self, epoch: int) -> None:
        set_epoch = getattr(self.dataset, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)

    def skip_next(self, num_samples: int) -> None:
        """Begin the next iteration after ``num_samples`` samples of the stream; they are read, not collated."""
        self._skip_samples = num_samples

    def __iter__(self) -> Iterator[tuple[bool, Any]]:
        skip, self._skip_samples = self._skip_samples, 0
        round_size = self.batch_size * self.world_size
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        first_round: list[Any] = []
        current: list[Any] = []
        for index, sample in enumerate(self.dataset):
            if len(first_round) < round_size and not self.drop_last:
                first_round.append(sample)
            if index < skip:
                continue
            current.append(sample)
            if len(current) == round_size:
                yield from ((True, kept) for kept in current[mine])
                current = []
        if not current or self.drop_last:
            return
        num_real = len(current)
        if self.world_size > 1:
            while len(current) < round_size:
                current += first_round[: round_size - len(current)]
        for index, sample in enumerate(current[mine], start=mine.start):
            yield index < num_real, sample


class CollateReal:
    """Collates ``(is_real, sample)`` pairs into ``(number of real samples, batch)``."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, pairs: list[tuple[bool, Any]]) -> tuple[int, Any]:
        return sum(is_real for is_real, _ in pairs), self.collate([sample for _, sample in pairs])
