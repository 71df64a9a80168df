"""A restored optimizer takes over the options of another run, while its schedule stays where it stands."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau

from raytrainer.optim.group_options import GroupOptions

STEPS = 3


def make(rate, make_schedule, **options):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=rate, **options)
    return optimizer, make_schedule(optimizer)


def halving(optimizer):
    return LambdaLR(optimizer, lambda step: 0.7**step)


def cosine(optimizer):
    return CosineAnnealingLR(optimizer, T_max=10)


def run(optimizer, schedule):
    for _ in range(STEPS):
        optimizer.step()
        schedule.step()


def restored(rate, make_schedule, *, saved, **options):
    """A run of its own rate that was restored from one with the saved rate."""
    donor = make(saved, make_schedule, weight_decay=0.1)
    run(*donor)
    optimizer, schedule = make(rate, make_schedule, **options)
    own = GroupOptions.of(optimizer, schedule)
    optimizer.load_state_dict(copy.deepcopy(donor[0].state_dict()))
    schedule.load_state_dict(copy.deepcopy(donor[1].state_dict()))
    own.apply(optimizer, schedule)
    return optimizer, schedule


def test_rate_is_bitwise_what_it_would_be_at_that_step():
    optimizer, schedule = restored(3e-3, halving, saved=1e-2)
    alone = make(3e-3, halving)
    run(*alone)
    assert optimizer.param_groups[0]["lr"] == alone[0].param_groups[0]["lr"] == schedule.get_last_lr()[0]
    schedule.step()
    alone[1].step()
    assert optimizer.param_groups[0]["lr"] == alone[0].param_groups[0]["lr"]


def test_rate_of_a_schedule_that_is_no_function_of_the_step_is_scaled():
    optimizer, _ = restored(3e-3, cosine, saved=1e-2)
    alone = make(3e-3, cosine)
    run(*alone)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(alone[0].param_groups[0]["lr"])


def test_own_rate_is_left_as_it_was_restored():
    optimizer, _ = restored(1e-2, cosine, saved=1e-2)
    alone = make(1e-2, cosine)
    run(*alone)
    assert optimizer.param_groups[0]["lr"] == alone[0].param_groups[0]["lr"]


def test_schedule_without_a_base_rate_keeps_the_rate_that_it_reached():
    optimizer, schedule = make(1e-2, lambda of: ReduceLROnPlateau(of, patience=0))
    own = GroupOptions.of(optimizer, schedule)
    for loss in (1.0, 2.0):
        schedule.step(loss)
    own.apply(optimizer, schedule)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


def test_other_options_are_taken_over():
    optimizer, _ = restored(1e-2, halving, saved=1e-2, weight_decay=0.3, betas=(0.5, 0.6), eps=1e-3)
    group = optimizer.param_groups[0]
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.3, (0.5, 0.6), 1e-3)
