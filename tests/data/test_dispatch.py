"""Rank 0 dispatches the batches that it reads, and what happens when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raytrainer.control.failure_kinds import FailureKind, kind_of
from raytrainer.data.batch_split import BatchSplit, Share
from raytrainer.data.dispatch import dispatch_rounds, receive_rounds
from raytrainer.errors import DispatchError
from raytrainer.wire.failure_record import record_failure
from tests.fakes import FakeRuntime, FakeWorld


def rounds() -> Iterator[tuple[list[Any], int]]:
    yield ["a", "b"], 4
    yield ["c", "d"], 3
    raise KeyError("lost")


def take(runtime: FakeRuntime) -> Iterator[tuple[Any, Share]]:
    if runtime.rank == 0:
        return dispatch_rounds(rounds(), runtime.scatter, BatchSplit(batch_size=2, world_size=2))
    return receive_rounds(runtime.scatter)


def test_a_rank_gets_its_part_and_what_it_counts() -> None:
    def two(runtime: FakeRuntime) -> list[Any]:
        taken = take(runtime)
        return [next(taken), next(taken)]

    first, second = FakeWorld(2).outcomes(two)
    assert first == [("a", Share(2, 4)), ("c", Share(2, 3))]
    assert second == [("b", Share(2, 4)), ("d", Share(1, 3))]


def test_a_failure_of_rank_0_ends_all_ranks_and_is_collateral_on_the_others() -> None:
    first, second = FakeWorld(2).outcomes(lambda runtime: list(take(runtime)))
    assert isinstance(first, KeyError)
    assert isinstance(second, DispatchError)
    assert str(second) == "Rank 0, which reads the data for all ranks, failed: KeyError: 'lost'"
    record = record_failure(second, rank=1, attempt=0, step=None, method="train", log_file=None)
    assert kind_of(record) is FailureKind.COLLATERAL
