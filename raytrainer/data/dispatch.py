"""How rank 0 reads the data and dispatches it to all ranks (``accelerator_config={"dispatch_batches": True}``).

A dataset that is expensive to read, or that only rank 0 can read, is read once instead of once per rank. Rank 0's
loader yields whole rounds, collated separately for each rank, so that ranks may get tensors of different lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from raytrainer.data.batch_split import BatchSplit, Share
from raytrainer.data.draws import Fetched, Read
from raytrainer.errors import DispatchError

Scatter = Callable[[list[Any] | None], Any]
"""All ranks: sends each rank its element of rank 0's list (``Runtime.scatter``)."""


class Dispatched(NamedTuple):
    """What rank 0 sends to a rank for one round."""

    batch: Any
    share: Share
    failure: str | None = None
    """The error that ended reading on rank 0; None if there was none."""


class CollateRound:
    """Collates a round into one micro-batch for each rank."""

    def __init__(self, collate: Callable[[Read], Fetched], split: BatchSplit) -> None:
        self.collate = collate
        self.split = split

    def __call__(self, read: Read) -> list[Fetched]:
        part_of, ranks = self.split.part_of, range(self.split.world_size)
        return [self.collate(Read(*(list(part_of(each, rank)) for each in read))) for rank in ranks]


def dispatch_rounds(
    rounds: Iterator[tuple[list[Any], int]], scatter: Scatter, split: BatchSplit
) -> Iterator[tuple[Any, Share]]:
    """Rank 0: send each rank its micro-batch of each round, and yield rank 0's own.

    All ranks: the others are in ``receive_rounds`` for the same number of rounds.

    Args:
        rounds: The micro-batches of each round, one per rank, and the number of its real samples.
        scatter: Sends each rank its part.
        split: Says which samples belong to which rank.
    """
    while True:
        try:
            found = next(rounds, None)
        except Exception as error:
            failed = Dispatched(None, Share(0, 0), f"{type(error).__name__}: {error}")
            scatter([failed] * split.world_size)
            raise
        if found is None:
            scatter([None] * split.world_size)
            return
        batches, num_round = found
        shares = [split.share_of(num_round, rank) for rank in range(split.world_size)]
        mine = scatter([Dispatched(batch, share) for batch, share in zip(batches, shares, strict=True)])
        yield mine.batch, mine.share


def receive_rounds(scatter: Scatter) -> Iterator[tuple[Any, Share]]:
    """Other ranks: yield the micro-batches that rank 0 sends, with their shares.

    Raises:
        DispatchError: If reading failed on rank 0.
    """
    while True:
        got = scatter(None)
        if got is None:
            return
        if got.failure is not None:
            raise DispatchError(f"Rank 0, which reads the data for all ranks, failed: {got.failure}")
        yield got.batch, got.share
