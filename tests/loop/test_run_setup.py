"""What a run that goes on with another batch size says about its length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import raytrainer
from tests.parity.twins import make_trainer

BEFORE = {"per_device_train_batch_size": 5, "num_train_epochs": 3, "save_strategy": "epoch"}
"""50 samples: 10 steps an epoch."""


def resumed(directory: Path, **options: Any) -> Any:
    trainer = make_trainer(raytrainer, directory, **{**BEFORE, "save_strategy": "no", **options})
    trainer.train(resume_from_checkpoint=str(directory / "checkpoint-10"))
    return trainer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run directory with a checkpoint of the first of three epochs."""
    make_trainer(raytrainer, tmp_path, **{**BEFORE, "max_steps": 10}).train()
    return tmp_path


@pytest.mark.parametrize(
    ("size", "said", "last_step", "last_epoch", "steps_for_all"),
    [
        (10, "so this run ends at epoch 2 of 3. Set max_steps=20 to train exactly 3", 15, 2.0, 20),
        (
            2,
            "so its data end at step 60, before the learning rate schedule does. Set max_steps=60",
            60,
            3.0,
            60,
        ),
    ],
)
def test_the_end_is_said_and_the_advice_trains_all_epochs(
    saved: Path,
    size: int,
    said: str,
    last_step: int,
    last_epoch: float,
    steps_for_all: int,
    caplog: pytest.LogCaptureFixture,
):
    trainer = resumed(saved, per_device_train_batch_size=size)
    assert said in caplog.text
    assert (trainer.state.global_step, trainer.state.epoch) == (last_step, last_epoch)
    caplog.clear()
    advised = resumed(saved, per_device_train_batch_size=size, max_steps=steps_for_all)
    assert "max_steps=" not in caplog.text
    assert (advised.state.global_step, advised.state.epoch) == (steps_for_all, 3.0)


def test_nothing_is_said_when_the_batch_size_is_the_same(saved: Path, caplog: pytest.LogCaptureFixture):
    assert resumed(saved).state.epoch == 3.0
    assert "batch size" not in caplog.text
