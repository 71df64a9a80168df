"""Every schedule of transformers: the rates and losses of each step are those of ``transformers.Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_utils import SchedulerType

import raytrainer
from tests.parity.twins import LIBRARIES, assert_equal_runs, make_model, make_trainer, rows

STEPS = 6
EVALUATED: dict[str, Any] = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "metric_for_best_model": "loss",
    "per_device_eval_batch_size": 10,
}
"""One batch: over several, transformers weights each by its samples, and raytrainer by its target tokens."""
SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"warmup_steps": 2},
    "cosine": {"warmup_steps": 2, "lr_scheduler_kwargs": {"num_cycles": 1.0}},
    "cosine_with_restarts": {"lr_scheduler_kwargs": {"num_cycles": 2}},
    "polynomial": {"lr_scheduler_kwargs": {"power": 2.0, "lr_end": 1e-4}},
    "constant": {},
    "constant_with_warmup": {"warmup_steps": 3},
    "inverse_sqrt": {"warmup_steps": 2, "lr_scheduler_kwargs": {"timescale": 3}},
    "reduce_lr_on_plateau": {
        **EVALUATED,
        "learning_rate": 0.3,
        "lr_scheduler_kwargs": {"factor": 0.5, "patience": 0, "threshold": 0.5},
    },
    "cosine_with_min_lr": {"lr_scheduler_kwargs": {"min_lr": 1e-3}},
    "cosine_warmup_with_min_lr": {
        "warmup_steps": 2,
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2},
    },
    "warmup_stable_decay": {
        "warmup_steps": 2,
        "lr_scheduler_kwargs": {"num_decay_steps": 2, "min_lr_ratio": 0.1},
    },
    "greedy": {
        **EVALUATED,
        "learning_rate": 0.3,
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "min_lr": 1e-5, "smooth": False},
    },
}


def rates(trainer: Any) -> list[float]:
    return [row[3] for row in rows(trainer)]


def test_no_schedule_is_left_out() -> None:
    assert SCHEDULES.keys() == {kind.value for kind in SchedulerType}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    trainers = {}
    for which, library in LIBRARIES.items():
        trainers[which] = make_trainer(
            library, tmp_path / which, max_steps=STEPS, lr_scheduler_type=name, **SCHEDULES[name]
        )
        trainers[which].train()
    assert_equal_runs(trainers["ours"], trainers["theirs"])
    if name != "constant":
        assert len(set(rates(trainers["ours"]))) > 1, "the schedule did nothing"


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "greedy", "warmup_stable_decay"])
def test_a_schedule_goes_on_where_it_was(name: str, tmp_path: Path) -> None:
    options = {**SCHEDULES[name], "max_steps": STEPS, "save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(raytrainer, tmp_path / "whole", lr_scheduler_type=name, **options)
    whole.train()
    resumed = make_trainer(raytrainer, tmp_path / "resumed", lr_scheduler_type=name, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert rates(resumed) == rates(whole)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


def test_a_users_own_optimizer_and_schedule_are_stepped(tmp_path: Path) -> None:
    trained = []
    for which, library in LIBRARIES.items():
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        trainer = library.Trainer(
            model=model,
            args=make_trainer(library, tmp_path / which, max_steps=4).args,
            train_dataset=make_trainer(library, tmp_path / which).train_dataset,
            optimizers=(optimizer, schedule),
        )
        torch.manual_seed(42)
        trainer.train()
        trained.append(trainer)
    assert rates(trained[0]) == [0.5, 0.25, 0.125, 0.0625]
    assert_equal_runs(*trained)


def test_an_optimizer_class_is_made_of_the_models_groups(tmp_path: Path) -> None:
    trained = []
    for which, library in LIBRARIES.items():
        plain = make_trainer(library, tmp_path / which, max_steps=4, weight_decay=0.1)
        trainer = library.Trainer(
            model=plain.model,
            args=plain.args,
            train_dataset=plain.train_dataset,
            optimizer_cls_and_kwargs=(torch.optim.RAdam, {"lr": 3e-3}),
        )
        trainer.train()
        raw = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        assert isinstance(raw, torch.optim.RAdam)
        assert {group["weight_decay"] for group in raw.param_groups} == {0.0, 0.1}
        trained.append(trainer)
    assert_equal_runs(*trained)
