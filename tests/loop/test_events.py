"""Callbacks get the events of ``transformers.Trainer`` in the same order, and their flags take effect."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import raytrainer
from tests.parity.twins import LIBRARIES, make_trainer, rows

EVENTS = sorted(name for name in vars(TrainerCallback) if name.startswith("on_"))


class Recorder(TrainerCallback):
    """Records every event with its step, and the keys of logs."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []


def record(event: str) -> Any:
    def method(self: Recorder, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # transformers' PrinterCallback, which comes first, removes total_flos from the dict it is given.
        detail = sorted(kwargs["logs"].keys() - {"total_flos"}) if event == "on_log" else None
        self.seen.append((event, state.global_step, round(state.epoch or 0, 6), detail))

    return method


for name in EVENTS:
    setattr(Recorder, name, record(name))

RUNS: dict[str, dict[str, Any]] = {
    "plain": {"max_steps": 3},
    "two_epochs": {"num_train_epochs": 2, "gradient_accumulation_steps": 4},
    "evaluate_and_save": {
        "max_steps": 6,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "logging_steps": 2,
    },
    "every_epoch": {
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 5,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
    },
    "on_start": {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True},
    "first_step": {"max_steps": 5, "logging_steps": 3, "logging_first_step": True},
    "accumulated_logs": {"max_steps": 4, "gradient_accumulation_steps": 2, "logging_steps": 3},
}


@pytest.mark.parametrize("run", RUNS)
def test_events_come_in_the_order_of_transformers(run: str, tmp_path: Path) -> None:
    seen = {}
    for name, library in LIBRARIES.items():
        trainer = make_trainer(library, tmp_path / name, **RUNS[run])
        recorder = Recorder()
        trainer.add_callback(recorder)
        trainer.train()
        trainer.evaluate()
        trainer.predict(trainer.eval_dataset)
        seen[name] = recorder.seen
    assert seen["ours"] == seen["theirs"]
    events = {event for event, *_ in seen["ours"]}
    assert {"on_train_begin", "on_step_end", "on_log", "on_evaluate", "on_predict", "on_train_end"} <= events
    assert ("on_save" in events) == ("save_strategy" in RUNS[run])


# The example of the Trainer guide.
class EarlyStoppingCallback(TrainerCallback):
    def __init__(self, num_steps=10):
        self.num_steps = num_steps

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.num_steps:
            return {"should_training_stop": True}
        else:
            return {}


def test_the_guides_early_stopping_stops_at_its_step(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, num_train_epochs=3)
    trainer.add_callback(EarlyStoppingCallback())
    trainer.train()
    assert trainer.state.global_step == len(rows(trainer)) == 10
    assert trainer.state.max_steps > 10


class AsksOnce(TrainerCallback):
    """Raises a flag at step 2."""

    def __init__(self, flag: str) -> None:
        self.flag = flag

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == 2:
            setattr(control, self.flag, True)
        return control


@pytest.mark.parametrize(
    "flag", ["should_log", "should_evaluate", "should_save", "should_epoch_stop", "should_training_stop"]
)
def test_flags_do_what_they_do_in_transformers(flag: str, tmp_path: Path) -> None:
    seen = {}
    for name, library in LIBRARIES.items():
        trainer = make_trainer(
            library, tmp_path / name, num_train_epochs=2, gradient_accumulation_steps=3, logging_steps=100
        )
        recorder = Recorder()
        for callback in (AsksOnce(flag), recorder):
            trainer.add_callback(callback)
        trainer.train()
        seen[name] = recorder.seen
    assert seen["ours"] == seen["theirs"]


def test_a_nan_loss_is_logged_as_nan_and_its_step_and_rank_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(raytrainer, tmp_path, max_steps=4, learning_rate=1e30)
    trainer.train()
    losses = [row[1] for row in rows(trainer)]
    assert len(losses) == 4
    assert math.isfinite(losses[0])
    assert math.isnan(losses[-1])
    first = 1 + next(index for index, loss in enumerate(losses) if not math.isfinite(loss))
    printed = capsys.readouterr()
    assert f"first at step {first} on rank 0" in " ".join((printed.out + printed.err).split())
