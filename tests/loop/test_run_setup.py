"""What a run that goes on says about its length, and where it finds its best checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

import raytrainer
from raytrainer.loop import run_setup
from raytrainer.loop.plan import make_plan
from raytrainer.loop.run_setup import best_checkpoint
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


def test_with_max_steps_smaller_batches_take_more_epochs_and_a_resume_at_the_end_of_the_last_one_trains_on(
    saved: Path,
):
    """Ten steps of five samples end the first epoch; by batches of two it would be the end of 25 steps."""
    trainer = resumed(saved, per_device_train_batch_size=2, max_steps=24)
    assert (trainer.state.global_step, trainer.state.epoch) == (24, 1 + 14 / 25)


def test_a_run_with_such_epochs_that_is_resumed_again_ends_there_too(saved: Path):
    options = {"per_device_train_batch_size": 2, "max_steps": 40, "save_strategy": "epoch"}
    resumed(saved, **options)
    again = make_trainer(raytrainer, saved, **{**BEFORE, **options})
    again.train(resume_from_checkpoint=str(saved / "checkpoint-35"))
    assert (again.state.global_step, again.state.epoch) == (40, 1 + 30 / 25)


def test_with_max_steps_fewer_micro_batches_a_step_take_more_epochs(tmp_path: Path):
    make_trainer(raytrainer, tmp_path, **BEFORE, gradient_accumulation_steps=2, max_steps=5).train()
    trainer = make_trainer(raytrainer, tmp_path, **BEFORE, gradient_accumulation_steps=1, max_steps=9)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert trainer.state.global_step == 9


def test_nothing_is_said_when_the_batch_size_is_the_same(saved: Path, caplog: pytest.LogCaptureFixture):
    assert resumed(saved).state.epoch == 3.0
    assert "batch size" not in caplog.text


WITH_BEST = {
    "save_strategy": "steps",
    "save_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "save_total_limit": 1,
    "report_page": False,
}


def trained(directory: Path, steps: int, **options: object):
    trainer = make_trainer(raytrainer, directory, max_steps=steps, **(WITH_BEST | options))
    trainer.train(resume_from_checkpoint="auto")
    return trainer


def test_the_best_checkpoint_of_a_copied_run_is_its_copy(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    first = trained(tmp_path / "original", 2)
    best = first.state.best_model_checkpoint
    assert best is not None
    shutil.move(tmp_path / "original", tmp_path / "copy")
    kept = tmp_path / "copy" / Path(best).name
    assert kept.is_dir()
    # The loss no longer falls, so that none of the steps that follow is better.
    second = trained(tmp_path / "copy", 3, learning_rate=1e3)
    assert "is forgotten" not in caplog.text
    assert second.state.best_model_checkpoint == str(kept)
    assert kept.is_dir()


def test_a_best_checkpoint_that_was_not_copied_is_forgotten(tmp_path: Path):
    trained(tmp_path / "one", 2)
    assert best_checkpoint(str(tmp_path / "gone" / "checkpoint-9"), tmp_path / "one" / "checkpoint-2") is None


def test_a_checkpoint_of_that_name_which_another_run_wrote_is_not_the_best(tmp_path: Path):
    trained(tmp_path / "one", 2, save_total_limit=3)
    trained(tmp_path / "two", 2, save_total_limit=3)
    shutil.rmtree(tmp_path / "one" / "checkpoint-1")
    shutil.move(tmp_path / "two" / "checkpoint-1", tmp_path / "one" / "checkpoint-1")
    newest = tmp_path / "one" / "checkpoint-2"
    assert best_checkpoint(str(tmp_path / "gone" / "checkpoint-1"), newest) is None
    assert best_checkpoint(str(tmp_path / "gone" / "checkpoint-2"), newest) == str(newest)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_all_ranks_know_of_a_checkpoint_of_transformers_rank_0_says_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, rank: int
):
    theirs = make_trainer(transformers, tmp_path / "theirs", max_steps=2, save_strategy="steps", save_steps=2)
    theirs.train()
    checkpoint = tmp_path / "theirs" / "checkpoint-2"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    state["best_model_checkpoint"] = "gone/checkpoint-1"
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    notes: list[Any] = []
    compared: list[int] = []
    monkeypatch.setattr(run_setup, "compare_trainer_and_checkpoint_args", lambda *_: compared.append(1))
    trainer = make_trainer(raytrainer, tmp_path / "ours", num_ranks=2, max_steps=4)
    trainer._process.runtime = SimpleNamespace(rank=rank, world_size=2, emit=notes.append)
    plan = make_plan(
        max_steps=4,
        num_train_epochs=1,
        accumulation=1,
        per_device_batch_size=4,
        world_size=2,
        loader_length=7,
        num_examples=50,
        dealing=None,
    )
    run_setup.restore_state(trainer, plan, checkpoint, None, is_restart=False)
    trainer._load_rng_state(str(checkpoint))
    texts = [note.text for note in notes]
    assert len(compared) == (1 if rank == 0 else 0)
    for words in ("gone/checkpoint-1 of the resumed run", "no random state for ranks 0, 1 of 2"):
        assert sum(words in text for text in texts) == (1 if rank == 0 else 0)
        assert sum(words in text for text in caplog.messages) == (1 if rank == 0 else 0)
