"""A run that is asked to move saves at the boundary, leaves, and goes on from there as if it had not been asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import raytrainer
from raytrainer.runtimes.base import Command, WorkersMove
from tests.parity.twins import make_trainer, rows


class AskToMove(TrainerCallback):
    """Has the runtime say that the driver asks for a move, from one step on."""

    def __init__(self, trainer: Any, step: int) -> None:
        self.trainer, self.step = trainer, step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            self.trainer._runtime._command = Command.MOVE


class AskAmidEvaluation(TrainerCallback):
    """Has the runtime say what the driver asks for, while a step is evaluated."""

    def __init__(self, trainer: Any, command: Command) -> None:
        self.trainer, self.command = trainer, command

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._runtime._command = self.command


OPTIONS: dict[str, Any] = {"max_steps": 6, "save_strategy": "steps", "save_steps": 4, "logging_steps": 1}


def moved_at(step: int, directory: Path, **options: Any) -> Any:
    trainer = make_trainer(raytrainer, directory, **OPTIONS | options)
    trainer.add_callback(AskToMove(trainer, step))
    return trainer


@pytest.mark.parametrize("strategy", ["steps", "no", "best"])
def test_it_saves_after_the_step_and_goes_on_from_there_bitwise(tmp_path: Path, strategy: str):
    more: dict[str, Any] = {"save_strategy": strategy}
    if strategy == "best":
        more |= {"metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": 3}
    with pytest.raises(WorkersMove):
        moved_at(3, tmp_path / "moved", **more).train()
    assert [path.name for path in (tmp_path / "moved").glob("checkpoint-*")] == ["checkpoint-3"]
    others = make_trainer(raytrainer, tmp_path / "moved", **OPTIONS | more)
    others.train(resume_from_checkpoint=True)
    whole = make_trainer(raytrainer, tmp_path / "whole", **OPTIONS | more)
    whole.train()
    assert rows(others) == rows(whole)


def test_a_step_that_is_saved_already_is_not_saved_twice(tmp_path: Path):
    with pytest.raises(WorkersMove):
        moved_at(4, tmp_path).train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]


def test_a_run_at_its_last_step_ends_where_it_is(tmp_path: Path):
    assert moved_at(6, tmp_path).train().global_step == 6


EVALUATED: dict[str, dict[str, Any]] = {
    "within an epoch": {"eval_strategy": "steps", "eval_steps": 3},
    "at its end": {"eval_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2},
}


@pytest.mark.parametrize("where", EVALUATED)
def test_an_interruption_amid_an_evaluation_saves_the_step_that_was_evaluated(tmp_path: Path, where: str):
    options = {**OPTIONS, "save_steps": 5, **EVALUATED[where]}
    trainer = make_trainer(raytrainer, tmp_path / "stopped", **options)
    trainer.add_callback(AskAmidEvaluation(trainer, Command.STOP_AFTER_SAVE))
    step = trainer.train().global_step
    assert step == (3 if where == "within an epoch" else 13)
    assert (tmp_path / f"stopped/checkpoint-{step}").is_dir()
    again = make_trainer(raytrainer, tmp_path / "stopped", **options)
    again.train(resume_from_checkpoint=True)
    whole = make_trainer(raytrainer, tmp_path / "whole", **options)
    whole.train()
    assert rows(again) == rows(whole)


def test_a_move_that_is_asked_for_amid_an_evaluation_is_made_there(tmp_path: Path):
    trainer = make_trainer(raytrainer, tmp_path, **OPTIONS, **EVALUATED["within an epoch"])
    trainer.add_callback(AskAmidEvaluation(trainer, Command.MOVE))
    with pytest.raises(WorkersMove):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
