"""The counts of a plan equal those of the formulas in ``transformers``."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from raytrainer.errors import ConfigurationError
from raytrainer.loop.plan import TrainPlan, make_plan


class Loader:
    """The part of a data loader that counting needs."""

    def __init__(self, length: int, num_examples: int) -> None:
        self.length = length
        self.dataset = range(num_examples)

    def __len__(self) -> int:
        return self.length


class Endless:
    """A loader without a length."""


def transformers_values(loader: Any, *, world_size: int, **arguments: Any) -> tuple[Any, ...]:
    args = SimpleNamespace(world_size=world_size, train_batch_size=arguments.pop("batch_size"), **arguments)
    total = args.train_batch_size * args.gradient_accumulation_steps * world_size
    trainer: Any = SimpleNamespace(
        get_total_train_batch_size=lambda args: total,
        get_sp_size=lambda: 1,
        num_examples=lambda loader: len(loader.dataset),
    )
    return transformers.Trainer.set_initial_training_values(trainer, args, loader)  # type: ignore[arg-type]


def our_values(plan: TrainPlan) -> tuple[Any, ...]:
    return (
        plan.num_epochs,
        plan.steps_per_epoch,
        plan.num_examples,
        plan.num_train_samples,
        plan.global_batch_size,
        plan.micro_batches_per_epoch,
        plan.max_steps,
    )


def plan_of(num_examples: int, **arguments: Any) -> TrainPlan:
    per_round = arguments["per_device_batch_size"] * arguments["world_size"]
    return make_plan(
        loader_length=math.ceil(num_examples / per_round), num_examples=num_examples, **arguments
    )


COUNTS = st.integers(1, 500)
SMALL = st.integers(1, 9)


@given(
    num_examples=COUNTS,
    accumulation=SMALL,
    batch_size=SMALL,
    world_size=SMALL,
    max_steps=st.one_of(st.just(-1), st.integers(1, 300)),
    num_epochs=st.floats(0.01, 9.0),
)
def test_counts_equal_those_of_transformers(
    num_examples: int,
    accumulation: int,
    batch_size: int,
    world_size: int,
    max_steps: int,
    num_epochs: float,
) -> None:
    plan = plan_of(
        num_examples,
        max_steps=max_steps,
        num_train_epochs=num_epochs,
        accumulation=accumulation,
        per_device_batch_size=batch_size,
        world_size=world_size,
    )
    theirs = transformers_values(
        Loader(math.ceil(num_examples / (batch_size * world_size)), num_examples),
        batch_size=batch_size,
        world_size=world_size,
        gradient_accumulation_steps=accumulation,
        max_steps=max_steps,
        num_train_epochs=num_epochs,
    )
    assert our_values(plan) == theirs


@given(accumulation=SMALL, batch_size=SMALL, world_size=SMALL, max_steps=st.integers(1, 300))
def test_counts_without_a_length_equal_those_of_transformers(
    accumulation: int, batch_size: int, world_size: int, max_steps: int
) -> None:
    plan = make_plan(
        max_steps=max_steps,
        num_train_epochs=3.0,
        accumulation=accumulation,
        per_device_batch_size=batch_size,
        world_size=world_size,
        loader_length=None,
        num_examples=None,
    )
    theirs = transformers_values(
        Endless(),
        batch_size=batch_size,
        world_size=world_size,
        gradient_accumulation_steps=accumulation,
        max_steps=max_steps,
        num_train_epochs=3.0,
    )
    assert our_values(plan) == theirs


@given(num_examples=COUNTS, accumulation=SMALL, batch_size=SMALL, world_size=SMALL, epochs=st.integers(1, 3))
def test_walking_through_the_groups_gives_every_micro_batch_once_and_every_position(
    num_examples: int, accumulation: int, batch_size: int, world_size: int, epochs: int
) -> None:
    plan = plan_of(
        num_examples,
        max_steps=-1,
        num_train_epochs=float(epochs),
        accumulation=accumulation,
        per_device_batch_size=batch_size,
        world_size=world_size,
    )
    step = 0
    for epoch in range(plan.num_epochs):
        done = 0
        while done < plan.micro_batches_per_epoch:
            assert plan.position_at(step) == (epoch, done)
            size = plan.group_size(done)
            assert 1 <= size <= accumulation
            done += size
            step += 1
        assert done == plan.micro_batches_per_epoch
    assert step == plan.max_steps


@pytest.mark.parametrize("loader_length", [None, 0])
def test_a_run_without_an_end_or_without_data_is_refused(loader_length: int | None) -> None:
    with pytest.raises(ConfigurationError, match=r"max_steps|dataloader_drop_last"):
        make_plan(
            max_steps=-1,
            num_train_epochs=3.0,
            accumulation=1,
            per_device_batch_size=8,
            world_size=2,
            loader_length=loader_length,
            num_examples=3,
        )
