"""Every schedule of the anchor gives its learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.trainer_utils import SchedulerType

from tests.parity.twins import LIBRARIES, make_trainer, rows

KEYWORDS: dict[str, dict[str, Any]] = {
    "cosine_with_restarts": {"num_cycles": 2},
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 3},
    "reduce_lr_on_plateau": {"patience": 0, "threshold": 10.0},
    "greedy": {"patience": 0},
}


WAITS_FOR_METRIC = ("reduce_lr_on_plateau", "greedy")


def rates_of(trainer: Any, schedule: str) -> list[float]:
    """The learning rate of ten steps, where a metric that never improves is told to those that wait for one."""
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    rates = []
    for _ in range(10):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step(*([1.0] if schedule in WAITS_FOR_METRIC else []))
    return rates


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("schedule", [kind.value for kind in SchedulerType])
def test_a_schedule_gives_the_rates_of_the_anchor(tmp_path: Path, schedule: str) -> None:
    options: dict[str, Any] = {
        "lr_scheduler_type": schedule,
        "lr_scheduler_kwargs": KEYWORDS.get(schedule, {}),
        "warmup_steps": 0 if schedule in ("constant", *WAITS_FOR_METRIC) else 2,
        "eval_strategy": "epoch" if schedule in WAITS_FOR_METRIC else "no",
    }
    ours, theirs = (
        rates_of(make_trainer(library, tmp_path, **options), schedule) for library in LIBRARIES.values()
    )
    assert ours == theirs
    assert (len(set(ours)) > 1) == (schedule != "constant"), ours


def test_a_schedule_that_waits_for_a_metric_gets_it(tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 6}
    options |= {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": 0, "threshold": 9.0},
    }
    ours, theirs = (make_trainer(library, tmp_path, **options) for library in LIBRARIES.values())
    for trainer in (ours, theirs):
        trainer.train()
    rates = [row[3] for row in rows(ours)]
    assert rates == [row[3] for row in rows(theirs)]
    assert len(set(rates)) > 2, rates
