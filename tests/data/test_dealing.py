"""However many ranks there are, they take together the micro-batches of the largest number, step by step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from raytrainer.data.batch_split import BatchSplit
from raytrainer.data.dealing import Dealing
from raytrainer.data.draws import Draws, PlacedCollate
from raytrainer.data.samplers import RankBatchSampler, SeededRandomSampler
from raytrainer.data.streams import CollateItems, RankStream
from raytrainer.loop.plan import make_plan
from tests.data.test_streams import Numbers

PARTS = st.integers(1, 6)
ROUNDS = st.integers(1, 4)
COUNTS = st.integers(1, 60)
BATCHES = st.integers(1, 4)

Step = list[tuple[list[int], float]]
"""The samples and the weight of each micro-batch of a step."""


def dealings(world_size: int, parts: int, accumulation: int) -> list[Dealing]:
    return [
        Dealing(rank=rank, world_size=world_size, parts=parts, accumulation=accumulation)
        for rank in range(world_size)
    ]


def split_of(dealing: Dealing, batch_size: int, **options: Any) -> BatchSplit:
    return BatchSplit(
        batch_size=batch_size, rank=dealing.rank, world_size=dealing.parts, dealing=dealing, **options
    )


@given(PARTS, st.integers(1, 6), ROUNDS, ROUNDS)
def test_each_micro_batch_of_a_step_is_computed_once_and_all_count_the_same(
    parts: int, world_size: int, accumulation: int, rounds: int
) -> None:
    ranks = dealings(world_size, parts, accumulation)
    turns = [one.turns(rounds) for one in ranks]
    assert {len(mine) for mine in turns} == {ranks[0].num_turns(rounds)}, "all ranks take as many turns"
    real = sorted((one.round, one.part) for mine in turns for one in mine if one.scale)
    assert real == [(number, part) for number in range(rounds) for part in range(parts)]
    (scale,) = {one.scale for mine in turns for one in mine if one.scale}
    assert scale * len(real) / (len(turns[0]) * world_size) == pytest.approx(1), (
        "their mean is one over all of them"
    )


@given(st.integers(1, 6), ROUNDS, st.integers(0, 20), st.data())
def test_positions_mean_the_same_on_any_number_of_ranks(
    parts: int, accumulation: int, rounds: int, data: st.DataObject
) -> None:
    for one in dealings(data.draw(st.integers(1, parts)), parts, accumulation):
        assert one.rounds_after(one.turns_after(rounds)) == rounds


def steps_of(ranks: list[Any], per_rank: list[list[tuple[list[int], float]]]) -> list[Step]:
    """What all ranks compute, step by step, in the order of the epoch and without stand-ins."""
    dealing = ranks[0]
    found: list[Step] = []
    for first in range(0, len(per_rank[0]), dealing.full_turns):
        turns = [list(mine[first : first + dealing.full_turns]) for mine in per_rank]
        ordered = [mine[number] for number in range(len(turns[0])) for mine in turns]
        factor = len(turns[0]) * len(ranks)
        found.append([(samples, weight / factor) for samples, weight in ordered if weight])
    return found


def of_sampler(
    ranks: list[Dealing], count: int, batch_size: int, *, skip: int = 0, **options: bool
) -> list[Step]:
    found: list[list[tuple[list[int], float]]] = []
    for one in ranks:
        split = split_of(one, batch_size, **options)
        mine = RankBatchSampler(SeededRandomSampler(range(count), 5), split)
        assert len(list(mine)) == len(mine) == len(list(mine.rounds()))
        mine.skip_next(skip)
        shares = [split.share_of_turn(*pair) for pair in mine.rounds(skip)]
        found.append([(ids, split.weight_of(share)) for ids, share in zip(mine, shares, strict=True)])
    return steps_of(ranks, found)


def of_stream(
    ranks: list[Dealing], count: int, batch_size: int, *, skip: int = 0, **options: bool
) -> list[Step]:
    found: list[list[tuple[list[int], float]]] = []
    for one in ranks:
        split = split_of(one, batch_size, **options)
        mine = RankStream(Numbers(count), split)
        mine.skip_next(skip)
        collate = CollateItems(PlacedCollate(list, Draws()))
        micro_batches: list[tuple[list[int], float]] = []
        for collated in DataLoader(mine, batch_size=split.taken_size, collate_fn=collate):
            end = collated.round_end
            share = split.share_of_turn(end.num_round, end.turn)
            micro_batches.append((collated.batch.batch, split.weight_of(share)))
        found.append(micro_batches)
    return steps_of(ranks, found)


def same(found: list[Step], expected: list[Step]) -> None:
    assert [[ids for ids, _ in step] for step in found] == [[ids for ids, _ in step] for step in expected]
    for one, other in zip(found, expected, strict=True):
        assert [weight for _, weight in one] == pytest.approx([weight for _, weight in other])


@pytest.mark.parametrize("read", [of_sampler, of_stream])
@pytest.mark.parametrize("options", [{}, {"fills_up": False}, {"drop_last": True}], ids=str)
@given(COUNTS, BATCHES, PARTS, ROUNDS, st.data())
def test_any_number_of_ranks_computes_the_steps_of_the_largest_and_goes_on_at_any_of_them(
    read: Any,
    options: dict[str, bool],
    count: int,
    batch_size: int,
    parts: int,
    accumulation: int,
    data: st.DataObject,
) -> None:
    whole = read(dealings(parts, parts, accumulation), count, batch_size, **options)
    done = data.draw(st.integers(0, max(0, len(whole) - 1)))
    ranks = dealings(data.draw(st.integers(1, parts)), parts, accumulation)
    same(read(ranks, count, batch_size, **options), whole)
    skip = done * accumulation * parts * batch_size
    same(read(ranks, count, batch_size, skip=skip, **options), whole[done:])


@given(COUNTS, BATCHES, PARTS, ROUNDS)
def test_the_largest_number_of_ranks_reads_as_if_it_could_not_change(
    count: int, batch_size: int, parts: int, accumulation: int
) -> None:
    for one in dealings(parts, parts, accumulation):
        fixed = BatchSplit(batch_size=batch_size, rank=one.rank, world_size=parts)
        sampler = SeededRandomSampler(range(count), 5)
        dealt, plain = (RankBatchSampler(sampler, split) for split in (split_of(one, batch_size), fixed))
        assert list(dealt) == list(plain)


@given(COUNTS, BATCHES, PARTS, ROUNDS, st.data())
def test_steps_and_epochs_are_those_of_the_largest_number_of_ranks(
    count: int, batch_size: int, parts: int, accumulation: int, data: st.DataObject
) -> None:
    plans = []
    for world_size in (parts, data.draw(st.integers(1, parts))):
        one = dealings(world_size, parts, accumulation)[0]
        length = len(RankBatchSampler(SeededRandomSampler(range(count), 5), split_of(one, batch_size)))
        options: dict[str, Any] = {"max_steps": -1, "num_train_epochs": 2.5, "accumulation": accumulation}
        plan = make_plan(
            **options,
            per_device_batch_size=batch_size,
            world_size=parts,
            loader_length=length,
            num_examples=count,
            dealing=one,
        )
        ends = [
            min(step * plan.accumulation, plan.micro_batches_per_epoch)
            for step in range(1, plan.steps_per_epoch + 1)
        ]
        plans.append(
            (
                plan.max_steps,
                plan.num_epochs,
                plan.global_batch_size,
                plan.round_size,
                plan.num_train_samples,
                [plan.part_of_epoch(end) for end in ends],
                [plan.rounds_after(end) for end in ends],
            )
        )
    assert plans[0] == plans[1]
    assert plans[0][-2][-1] == 1


def test_a_step_that_was_left_in_its_middle_is_taken_anew() -> None:
    one = Dealing(rank=0, world_size=2, parts=3, accumulation=2)
    plan = make_plan(
        max_steps=2,
        num_train_epochs=1,
        accumulation=2,
        per_device_batch_size=2,
        world_size=3,
        loader_length=6,
        num_examples=24,
        dealing=one,
    )
    assert plan.accumulation == 3
    assert [plan.rounds_after(turns) for turns in range(7)] == [0, 0, 0, 2, 2, 2, 4]
    assert [plan.micro_batches_after(rounds) for rounds in range(5)] == [0, 0, 3, 3, 6]
