"""Order and distribution of samples equal accelerate's, and sampling resumes at any sample."""

from __future__ import annotations

from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, Sampler, SequentialSampler

from raytrainer.data.batch_split import BatchSplit
from raytrainer.data.samplers import RankBatchSampler, SeededRandomSampler

SIZES = st.integers(1, 60)
BATCHES = st.integers(1, 9)
WORLDS = st.integers(1, 6)


def shares(
    sampler: Sampler[int], batch_size: int, world_size: int, *, drop_last: bool, **options: bool
) -> list[RankBatchSampler]:
    return [
        RankBatchSampler(
            sampler,
            BatchSplit(
                batch_size=batch_size, drop_last=drop_last, rank=rank, world_size=world_size, **options
            ),
        )
        for rank in range(world_size)
    ]


@given(SIZES, BATCHES, WORLDS, st.booleans())
def test_shares_equal_those_of_accelerate(
    num_samples: int, batch_size: int, world_size: int, drop_last: bool
) -> None:
    sampler = SequentialSampler(range(num_samples))
    batches = BatchSampler(sampler, batch_size, drop_last)
    for rank, mine in enumerate(shares(sampler, batch_size, world_size, drop_last=drop_last)):
        # Accelerate wraps nothing for a single process.
        theirs = batches if world_size == 1 else BatchSamplerShard(batches, world_size, rank)
        assert list(mine) == list(theirs)
        assert len(mine) == len(theirs) == len(list(mine))


@given(SIZES, BATCHES, WORLDS, st.booleans(), st.integers(0, 5), st.integers(0, 2**31))
def test_every_sample_is_seen_once_and_fill_ups_are_counted(
    num_samples: int, batch_size: int, world_size: int, drop_last: bool, epoch: int, seed: int
) -> None:
    sampler = SeededRandomSampler(range(num_samples), seed)
    ranks = shares(sampler, batch_size, world_size, drop_last=drop_last)
    ranks[0].set_epoch(epoch)
    real: list[int] = []
    for (num_round, _), *micro_batches in zip(ranks[0].rounds(), *ranks, strict=True):
        for rank, batch in enumerate(micro_batches):
            real += batch[: ranks[rank].split.share_of(num_round, rank).num_real]
    kept = num_samples - num_samples % (batch_size * world_size) if drop_last else num_samples
    assert real == list(sampler)[:kept]
    assert sorted(sampler) == list(range(num_samples))


@given(SIZES, BATCHES, st.integers(2, 6), st.booleans())
def test_without_fill_ups_shares_equal_those_of_accelerate_but_for_stand_ins(
    num_samples: int, batch_size: int, world_size: int, drop_last: bool
) -> None:
    sampler = SequentialSampler(range(num_samples))
    batches = BatchSampler(sampler, batch_size, drop_last)
    ranks = shares(sampler, batch_size, world_size, drop_last=drop_last, fills_up=False)
    assert len({len(list(mine)) for mine in ranks}) == 1, "all ranks take part in all rounds"
    for rank, mine in enumerate(ranks):
        theirs = BatchSamplerShard(batches, world_size, rank, even_batches=False)
        reals = [mine.split.share_of(n, rank).num_real for n, _ in mine.rounds()]
        own = [batch for batch, num_real in zip(mine, reals, strict=True) if num_real > 0]
        assert own == list(theirs)
        assert len(mine) == len(list(mine))


@given(SIZES, BATCHES, st.integers(2, 6))
def test_a_split_batch_is_cut_like_accelerates(num_samples: int, part: int, world_size: int) -> None:
    sampler = SequentialSampler(range(num_samples))
    batches = BatchSampler(sampler, part * world_size, drop_last=False)
    for rank, mine in enumerate(shares(sampler, part, world_size, drop_last=False)):
        assert list(mine) == list(BatchSamplerShard(batches, world_size, rank, split_batches=True))


@given(SIZES, BATCHES, WORLDS, st.booleans(), st.booleans(), st.data())
def test_a_whole_round_is_what_the_ranks_take(
    num_samples: int, batch_size: int, world_size: int, drop_last: bool, fills_up: bool, data: st.DataObject
) -> None:
    sampler = SeededRandomSampler(range(num_samples), 5)
    options = {"drop_last": drop_last, "fills_up": fills_up}
    whole, *_ = shares(sampler, batch_size, world_size, takes_rounds=True, **options)
    done = data.draw(st.integers(0, len(whole)))
    whole.skip_next(done * whole.split.round_size)
    rounds = list(whole)
    for rank, mine in enumerate(shares(sampler, batch_size, world_size, **options)):
        parts = [mine.split.part_of(samples, rank) for samples in rounds]
        assert parts == list(mine)[done:]


@given(SIZES, BATCHES, WORLDS, st.booleans(), st.data())
def test_an_epoch_goes_on_at_any_round(
    num_samples: int, batch_size: int, world_size: int, drop_last: bool, data: st.DataObject
) -> None:
    sampler = SeededRandomSampler(range(num_samples), 5)
    for mine in shares(sampler, batch_size, world_size, drop_last=drop_last):
        whole = list(mine)
        done = data.draw(st.integers(0, len(whole)))
        mine.skip_next(done * mine.split.round_size)
        assert list(mine) == whole[done:]
        assert list(mine) == whole, "a skip holds for one iteration"


@given(st.integers(1, 100), st.integers(0, 2**40), st.integers(0, 10))
def test_permutations_equal_those_of_accelerate(num_samples: int, seed: int, epoch: int) -> None:
    mine = SeededRandomSampler(range(num_samples), seed)
    theirs = SeedableRandomSampler(range(num_samples), data_seed=seed)
    mine.set_epoch(epoch)
    theirs.set_epoch(epoch)
    assert list(mine) == list(theirs)
    mine.set_epoch(epoch + 1)
    assert list(mine) == list(theirs), "accelerate's moves on to the next epoch by itself"


@given(st.integers(20, 100), st.integers(0, 1000))
def test_epochs_differ_and_repeat(num_samples: int, seed: int) -> None:
    sampler = SeededRandomSampler(range(num_samples), seed)
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
