"""Schedules go on with groups that are added to their optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules
from transformers.optimization import GreedyLR

from raytrainer.optim.added_groups import add_group, extend_schedule


def sequential(optimizer: Any) -> Any:
    parts = [schedules.ConstantLR(optimizer, 0.5, 2), schedules.CosineAnnealingLR(optimizer, 8)]
    return schedules.SequentialLR(optimizer, parts, milestones=[4])


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: schedules.LambdaLR(o, lambda step: 1 / (1 + step)),
    "multiplicative": lambda o: schedules.MultiplicativeLR(o, lambda step: 0.9),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.9),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 4),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.1, total_steps=12),
    "sequential": sequential,
    "chained": lambda o: schedules.ChainedScheduler(
        [schedules.ExponentialLR(o, 0.9), schedules.StepLR(o, 2)]
    ),
    "plateau": lambda o: schedules.ReduceLROnPlateau(o, patience=0, min_lr=[0.001, 0.001]),
    "greedy": lambda o: GreedyLR(o, patience=0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_group_that_is_added_has_the_rates_of_those_before(name: str) -> None:
    first, second, added = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = torch.optim.SGD(
        [{"params": [first], "weight_decay": 0.1}, {"params": [second], "weight_decay": 0.0}],
        lr=0.1,
        momentum=0.9,
    )
    schedule = SCHEDULES[name](optimizer)
    rates: list[list[float]] = []

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.step()
            schedule.step(*([1.0] if name in {"plateau", "greedy"} else []))
            rates.append([group["lr"] for group in optimizer.param_groups])

    steps(3)
    add_group(optimizer, [added], weight_decay=0.1, is_like_others=True)
    extend_schedule(schedule, optimizer)
    steps(6)
    assert [len(row) for row in rates] == [2] * 3 + [3] * 6
    assert all(row == pytest.approx([row[0]] * len(row)) for row in rates)
    assert len({row[0] for row in rates}) > 1
    assert len(schedule.get_last_lr()) == 3
    schedule.load_state_dict(schedule.state_dict())
    steps(1)


def test_a_group_of_the_users_own_optimizer_starts_where_the_schedule_has_brought_the_first() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.2, momentum=0.9)
    schedule = schedules.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    schedule.step()
    optimizer.param_groups[0]["momentum"] = 0.5
    add_group(optimizer, [torch.nn.Parameter(torch.ones(2))], weight_decay=0.1, is_like_others=False)
    extend_schedule(schedule, optimizer)
    added = optimizer.param_groups[1]
    assert added["lr"] == pytest.approx(0.1)
    assert (added["momentum"], added["weight_decay"]) == (0.9, 0)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.05])
