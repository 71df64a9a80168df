"""A rank's share of a stream equals accelerate's, and reading resumes at any sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accelerate.data_loader import IterableDatasetShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from raytrainer.data.batch_split import BatchSplit
from raytrainer.data.dealing import Turn
from raytrainer.data.draws import Draws, Fetched, Place, Placed, PlacedCollate
from raytrainer.data.streams import CollateItems, Item, RankStream, RoundEnd


class Numbers(IterableDataset[int]):
    """Counts up, and remembers the epoch set by ``set_epoch``."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * 1000, self.epoch * 1000 + self.count))


def shares(
    dataset: IterableDataset[int], batch_size: int, world_size: int, *, drop_last: bool, **options: bool
) -> list[RankStream]:
    return [
        RankStream(
            dataset,
            BatchSplit(
                batch_size=batch_size, drop_last=drop_last, rank=rank, world_size=world_size, **options
            ),
        )
        for rank in range(world_size)
    ]


def sample_of(item: Item) -> Any:
    assert item.placed is not None
    return item.placed.sample


def placed(number: int) -> Placed:
    return Placed(number, Place(number, number, 0))


def micro_batches(mine: RankStream) -> list[tuple[list[int], int]]:
    """Samples of each micro-batch, and how many of its round are real."""
    found: list[tuple[list[int], int]] = []
    current: list[int] = []
    for item in mine:
        current.append(sample_of(item))
        if item.round_end is not None:
            found.append((current, item.round_end.num_round))
            current = []
    assert not current, "the last sample of a turn says so"
    return found


def real_samples(mine: RankStream) -> list[int]:
    """The real samples, without padding ones."""
    real: list[int] = []
    for samples, num_round in micro_batches(mine):
        real += samples[: mine.split.share_of(num_round, mine.split.rank).num_real]
    return real


@given(st.integers(0, 60), st.integers(1, 8), st.integers(2, 5), st.booleans())
def test_shares_equal_those_of_accelerate(
    count: int, batch_size: int, world_size: int, drop_last: bool
) -> None:
    for rank, mine in enumerate(shares(Numbers(count), batch_size, world_size, drop_last=drop_last)):
        theirs = IterableDatasetShard(
            Numbers(count),
            batch_size=batch_size,
            drop_last=drop_last,
            num_processes=world_size,
            process_index=rank,
        )
        assert [sample_of(item) for item in mine] == list(theirs)


@given(st.integers(0, 60), st.integers(1, 8), st.booleans())
def test_one_rank_alone_gets_the_stream_as_it_is(count: int, batch_size: int, drop_last: bool) -> None:
    (mine,) = shares(Numbers(count), batch_size, 1, drop_last=drop_last)
    kept = count - count % batch_size if drop_last else count
    assert [sample_of(item) for item in mine] == list(range(kept))


@given(st.integers(0, 60), st.integers(1, 8), st.integers(1, 5))
def test_each_sample_is_real_on_one_rank_once(count: int, batch_size: int, world_size: int) -> None:
    ranks = shares(Numbers(count), batch_size, world_size, drop_last=False)
    real = [sample for mine in ranks for sample in real_samples(mine)]
    assert sorted(real) == list(range(count))


@given(st.integers(0, 60), st.integers(1, 8), st.integers(1, 5))
def test_without_fill_ups_no_sample_comes_twice(count: int, batch_size: int, world_size: int) -> None:
    ranks = shares(Numbers(count), batch_size, world_size, drop_last=False, fills_up=False)
    yielded = [[sample_of(item) for item in mine] for mine in ranks]
    assert sorted(sample for mine in ranks for sample in real_samples(mine)) == list(range(count))
    turns = {sum(item.round_end is not None for item in mine) for mine in ranks}
    assert turns == {-(-count // (batch_size * world_size))}, "all ranks take part in all rounds"
    assert sum(map(len, yielded)) - count <= world_size - 1, "beyond the samples there are stand-ins"


@given(st.integers(0, 60), st.integers(1, 8), st.integers(1, 5), st.booleans(), st.booleans())
def test_a_whole_round_is_what_the_ranks_take(
    count: int, batch_size: int, world_size: int, drop_last: bool, fills_up: bool
) -> None:
    (whole, *_) = shares(
        Numbers(count), batch_size, world_size, drop_last=drop_last, fills_up=fills_up, takes_rounds=True
    )
    ranks = shares(Numbers(count), batch_size, world_size, drop_last=drop_last, fills_up=fills_up)
    rounds = micro_batches(whole)
    for rank, mine in enumerate(ranks):
        parts = [mine.split.part_of(samples, rank) for samples, _ in rounds]
        assert parts == [samples for samples, _ in micro_batches(mine)]


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 5), st.booleans(), st.data())
def test_a_stream_goes_on_at_any_round(
    count: int, batch_size: int, world_size: int, drop_last: bool, data: st.DataObject
) -> None:
    for mine in shares(Numbers(count), batch_size, world_size, drop_last=drop_last):
        whole = list(mine)
        rounds = data.draw(st.integers(0, count // (batch_size * world_size)))
        mine.skip_next(rounds * batch_size * world_size)
        assert list(mine) == whole[rounds * batch_size :]
        assert list(mine) == whole, "a skip holds for one iteration"


def test_the_epoch_reaches_the_dataset() -> None:
    (mine,) = shares(Numbers(2), 2, 1, drop_last=False)
    mine.set_epoch(3)
    assert [sample_of(item) for item in mine] == [3000, 3001]


def test_a_batch_says_how_many_of_its_samples_are_real() -> None:
    turn = RoundEnd(num_round=2, place={"samples": 2}, turn=Turn(0, 0))
    items = [Item(placed(1), None), Item(placed(2), None), Item(placed(4), turn)]
    collate = PlacedCollate(sum, Draws())
    assert CollateItems(collate)(items) == (Fetched(7, [1, 2, 4]), 0, turn)
