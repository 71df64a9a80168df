"""The optimizers and schedules that DeepSpeed's JSON names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from raytrainer.backends.zero import config_sections
from raytrainer.errors import ConfigurationError
from tests.parity.twins import make_model, make_trainer, rows

pytest.importorskip("deepspeed")
OFFLOADED = {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": False}}


def train(directory: Path, **options: Any) -> Any:
    options = {"max_steps": 4, "weight_decay": 0.1, "learning_rate": 1e-2, **options}
    trainer = make_trainer(raytrainer, directory, model=make_model(dropout=0.0), **options)
    trainer.train()
    return trainer


def config(kind: str, *, zero: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    return {
        "zero_optimization": zero or {"stage": 2},
        "optimizer": {"type": kind, "params": {"lr": "auto", "weight_decay": "auto", **params}},
    }


def test_the_json_of_adamw_trains_as_the_argument_does(tmp_path):
    found = train(tmp_path / "json", deepspeed=config("AdamW", betas="auto", eps="auto"))
    assert type(found.optimizer.optimizer) is torch.optim.AdamW
    expected = train(
        tmp_path / "argument", deepspeed={"zero_optimization": {"stage": 2}}, optim="adamw_torch"
    )
    assert rows(found) == rows(expected)


def test_deepspeeds_adam_decouples_weight_decay_unless_it_is_told_not_to(tmp_path):
    assert type(train(tmp_path / "a", deepspeed=config("Adam")).optimizer.optimizer) is torch.optim.AdamW
    coupled = train(tmp_path / "b", deepspeed=config("Adam", adam_w_mode=False))
    assert type(coupled.optimizer.optimizer) is torch.optim.Adam


def test_the_json_of_a_schedule_gives_the_learning_rates(tmp_path):
    schedule = {
        "type": "WarmupDecayLR",
        "params": {
            "warmup_min_lr": "auto",
            "warmup_max_lr": "auto",
            "warmup_num_steps": 2,
            "total_num_steps": "auto",
            "warmup_type": "linear",
        },
    }
    options = {"deepspeed": {"zero_optimization": {"stage": 1}, "scheduler": schedule}}
    trainer = train(tmp_path, logging_steps=1, **options)
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    # DeepSpeed's schedules count the first two steps as 0.
    assert rates == pytest.approx([0.0, 0.0, 0.005, 0.01])


def test_a_schedule_resumes_where_it_was(tmp_path):
    schedule = {
        "type": "WarmupLR",
        "params": {"warmup_max_lr": "auto", "warmup_num_steps": 3, "warmup_type": "linear"},
    }
    options: dict[str, Any] = {"deepspeed": {"zero_optimization": {"stage": 1}, "scheduler": schedule}}
    whole = train(tmp_path, save_strategy="steps", save_steps=2, **options)
    again = make_trainer(
        raytrainer,
        tmp_path,
        model=make_model(dropout=0.0),
        max_steps=4,
        weight_decay=0.1,
        learning_rate=1e-2,
        **options,
    )
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert rows(again) == rows(whole)


@pytest.mark.parametrize(
    ("ds", "message"),
    [
        (config("AdamW", momentum=0.9), "do not fit AdamW.*momentum"),
        (config("Lion"), "offloaded state only"),
        (config("SGD", zero=OFFLOADED), "no implementation for offloaded state"),
    ],
)
def test_params_that_do_not_fit_are_an_error(tmp_path, ds, message):
    with pytest.raises(ConfigurationError, match=message):
        train(tmp_path, deepspeed=ds)


def test_a_missing_compiler_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(config_sections.shutil, "which", lambda name: None)
    with pytest.raises(ConfigurationError, match="C\\+\\+ compiler"):
        train(tmp_path, deepspeed=config("AdamW", zero=OFFLOADED))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not os.environ.get("RAYTRAINER_COMPILES"),
    reason="DeepSpeedCPUAdam is compiled for two minutes: set RAYTRAINER_COMPILES=1",
)
def test_deepspeeds_adam_for_the_cpu_trains_offloaded_and_resumes(tmp_path):
    ds = config("AdamW", zero=OFFLOADED)
    whole = train(tmp_path, deepspeed=ds, save_strategy="steps", save_steps=2)
    assert type(whole.optimizer.optimizer).__name__ == "DeepSpeedCPUAdam"
    expected = train(tmp_path / "plain", deepspeed={"zero_optimization": {"stage": 2}})
    for mine, other in zip(rows(whole), rows(expected), strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
    again = make_trainer(
        raytrainer, tmp_path, model=make_model(dropout=0.0), max_steps=4, weight_decay=0.1, deepspeed=ds,
        learning_rate=1e-2,
    )  # fmt: skip
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    # Its kernel accumulates powers of beta, and recomputes them after a resume: not bitwise.
    assert len(rows(again)) == 4
    for mine, other in zip(rows(again), rows(whole), strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
