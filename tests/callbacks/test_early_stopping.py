"""A run that early stopping ended stays ended; the states of callbacks that a resume restores or drops are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import raytrainer
from raytrainer.driver.entry_points import open_local_session
from raytrainer.telemetry.events import CheckpointCommitted, Note
from tests.parity.twins import eval_losses, make_trainer

pytestmark = pytest.mark.timeout(60)


def train(
    directory: Path, *, patience: int | None = 2, resume: bool = False, **options: Any
) -> tuple[Any, list[str], list[int]]:
    """Train with a metric that never improves; return the trainer, the notes, and the steps of commits."""
    trainer = make_trainer(
        raytrainer,
        directory,
        **{
            "num_train_epochs": 1,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_strategy": "steps",
            "save_steps": 2,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": True,
            "load_best_model_at_end": True,
            **options,
        },
    )
    if patience is not None:
        trainer.add_callback(transformers.EarlyStoppingCallback(early_stopping_patience=patience))
    events: list[Any] = []
    open_local_session(trainer).runtime._on_event = events.append
    trainer.train(resume_from_checkpoint=resume)
    notes = [event.text for event in events if isinstance(event, Note)]
    return trainer, notes, [event.step for event in events if isinstance(event, CheckpointCommitted)]


@pytest.mark.parametrize("restores", [False, True])
@pytest.mark.parametrize("epochs", [False, True])
def test_a_run_that_early_stopping_ended_stays_ended(restores: bool, epochs: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"restore_callback_states_from_checkpoint": restores}
    if epochs:
        options |= {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 5}
    ended, notes, commits = train(tmp_path, **options)
    step = 39 if epochs else 6
    assert (ended.state.global_step, commits[-1], notes) == (step, step, [])
    again, notes, commits = train(tmp_path, resume=True, **options)
    assert (again.state.global_step, commits) == (step, [])
    assert eval_losses(again) == eval_losses(ended)
    (note,) = [text for text in notes if text.startswith("Early stopping ended this run")]
    assert f"at step {step} of" in note
    assert "early_stopping_patience=2" in note


@pytest.mark.parametrize("patience", [4, None])
def test_it_goes_on_with_more_patience_or_without_early_stopping(
    patience: int | None, tmp_path: Path
) -> None:
    train(tmp_path)
    longer, notes, _ = train(tmp_path, patience=patience, resume=True)
    assert longer.state.global_step == 13
    assert not any("Early stopping ended" in text for text in notes)


def test_patience_that_is_not_restored_is_said(tmp_path: Path) -> None:
    train(tmp_path, patience=5, max_steps=4)
    longer, notes, _ = train(tmp_path, patience=5, max_steps=13, resume=True)
    assert longer.state.global_step == 13
    (note,) = [text for text in notes if "not restored" in text]
    assert "EarlyStoppingCallback (early_stopping_patience=5, " in note
    assert "early_stopping_patience_counter=1)" in note
    assert "restore_callback_states_from_checkpoint=True" in note


def test_patience_that_is_restored_is_said_and_counts(tmp_path: Path) -> None:
    options = {"restore_callback_states_from_checkpoint": True}
    train(tmp_path, patience=3, max_steps=4, **options)
    longer, notes, _ = train(tmp_path, patience=9, max_steps=13, resume=True, **options)
    assert longer.state.global_step == 8, "the patience of the checkpoint replaces that of the new callback"
    (note,) = [text for text in notes if "Restored" in text]
    assert "early_stopping_patience=3" in note
    assert "early_stopping_patience_counter=1" in note


def test_states_that_are_as_they_were_saved_are_not_worth_a_word(tmp_path: Path) -> None:
    train(tmp_path, patience=5, max_steps=2)
    _, notes, _ = train(tmp_path, patience=5, max_steps=4, resume=True)
    assert notes == []
