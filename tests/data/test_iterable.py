"""A rank's share of a stream against accelerate's, and going on at any sample."""

from __future__ import annotations

from collections.abc import Iterator

from accelerate.data_loader import IterableDatasetShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from raytrainer.data.iterable import CollateReal, Item, RankStream


class Numbers(IterableDataset[int]):
    """Counts up, and remembers the epoch it was told."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * 1000, self.epoch * 1000 + self.count))


def shares(
    dataset: IterableDataset[int], batch_size: int, world_size: int, *, drop_last: bool
) -> list[RankStream]:
    return [
        RankStream(dataset, batch_size=batch_size, drop_last=drop_last, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]


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
        assert [item.sample for item in mine] == list(theirs)


@given(st.integers(0, 60), st.integers(1, 8), st.booleans())
def test_one_rank_alone_gets_the_stream_as_it_is(count: int, batch_size: int, drop_last: bool) -> None:
    (mine,) = shares(Numbers(count), batch_size, 1, drop_last=drop_last)
    kept = count - count % batch_size if drop_last else count
    assert [item[:2] for item in mine] == [(True, number) for number in range(kept)]


@given(st.integers(0, 60), st.integers(1, 8), st.integers(1, 5))
def test_each_sample_is_real_on_one_rank_once(count: int, batch_size: int, world_size: int) -> None:
    ranks = shares(Numbers(count), batch_size, world_size, drop_last=False)
    real = [item.sample for mine in ranks for item in mine if item.is_real]
    assert sorted(real) == list(range(count))


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
    assert [item.sample for item in mine] == [3000, 3001]


def test_a_batch_says_how_many_of_its_samples_are_real() -> None:
    items = [Item(True, 1, None), Item(True, 2, None), Item(False, 4, {"samples": 2})]
    assert CollateReal(sum)(items)[:2] == (2, 7)
