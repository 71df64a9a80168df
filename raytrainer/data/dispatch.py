"""Rank 0 reads the data and deals them out (``accelerator_config={"dispatch_batches": True}``).

A dataset that costs much to read, or that only rank 0 can read, is read once and not once per rank. Rank 0's loader
yields whole rounds, collated for each rank by itself, so that ranks may get tensors of different lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from raytrainer.data.rounds import Cut, Share
from raytrainer.errors import DispatchError

Scatter = Callable[[list[Any] | None], Any]
"""All ranks: hands each rank its element of rank 0's list (``Runtime.scatter``)."""


class Dealt(NamedTuple):
    """What a rank gets of a round."""

    batch: Any
    share: Share
    failure: str | None = None
    """Why rank 0 has no more rounds."""


class CollateRound:
    """Collates a round into one micro-batch for each rank."""

    def __init__(self, collate: Callable[[list[Any]], Any], cut: Cut) -> None:
        self.collate = collate
        self.cut = cut

    def __call__(self, samples: list[Any]) -> list[Any]:
        return [self.collate(self.cut.part_of(samples, rank)) for rank in range(self.cut.world_size)]


def deal(rounds: Iterator[tuple[list[Any], int]], scatter: Scatter, cut: Cut) -> Iterator[tuple[Any, Share]]:
    """Rank 0: hand each rank its micro-batch of each round, and yield its own.

    All ranks: the others are in ``receive``, and ask for as many rounds.

    Args:
        rounds: The micro-batches of each round, and the number of its real samples.
        scatter: Hands each rank its part.
        cut: Says whose the samples are.
    """
    while True:
        try:
            found = next(rounds, None)
        except Exception as error:
            failed = Dealt(None, Share(0, 0), f"{type(error).__name__}: {error}")
            scatter([failed] * cut.world_size)
            raise
        if found is None:
            scatter([None] * cut.world_size)
            return
        batches, num_round = found
        shares = [cut.share_of(num_round, rank) for rank in range(cut.world_size)]
        mine = scatter([Dealt(batch, share) for batch, share in zip(batches, shares, strict=True)])
        yield mine.batch, mine.share


def receive(scatter: Scatter) -> Iterator[tuple[Any, Share]]:
    """Other ranks: yield what rank 0 hands out.

    Raises:
        DispatchError: If rank 0 could not go on.
    """
    while True:
        got = scatter(None)
        if got is None:
            return
        if got.failure is not None:
            raise DispatchError(f"Rank 0, which reads the data for all ranks, failed: {got.failure}")
        yield got.batch, got.share
