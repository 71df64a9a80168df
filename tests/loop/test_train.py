"""However a run ends: what stays in storage, and what a run that goes on from there does."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer
from raytrainer.driver.entry_points import open_local_session
from raytrainer.telemetry.events import CheckpointCommitted
from raytrainer.wire.pieces import from_pieces
from raytrainer.worker.task_context import TaskContext
from tests.parity.twins import make_model, make_samples, make_trainer, rows

pytestmark = pytest.mark.timeout(60)

EVERY_STEP = {
    "max_steps": 8,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
}
# The loss falls, so the first checkpoint stays the best one.
BEST_IS_FIRST = {
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": True,
    "save_total_limit": 1,
}
EACH_EPOCH = {"num_train_epochs": 2, "eval_strategy": "epoch", "save_strategy": "epoch"}
EPOCH_STEPS = 13


class At(transformers.TrainerCallback):
    """Does something at an event of a step."""

    def __init__(self, event: str, step: int, action: Any) -> None:
        self.calls: list[str] = []

        def act(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                self.calls.append(event)
                action(control)

        setattr(self, event, act)


def press_ctrl_c(control: Any) -> None:
    signal.raise_signal(signal.SIGINT)


def send_sigterm(control: Any) -> None:
    signal.raise_signal(signal.SIGTERM)


def ask_to_stop(control: Any) -> None:
    control.should_training_stop = True


def fail(control: Any) -> None:
    raise RuntimeError("out of luck")


def train(
    directory: Path, callback: Any = None, *, resume: bool = False, **options: Any
) -> tuple[Any, list[int]]:
    """Train, and return the trainer and the steps of its commits."""
    trainer = make_trainer(raytrainer, directory, **options)
    if callback is not None:
        trainer.add_callback(callback)
    events: list[Any] = []
    open_local_session(trainer).runtime._on_event = events.append
    trainer.train(resume_from_checkpoint=resume)
    return trainer, [event.step for event in events if isinstance(event, CheckpointCommitted)]


def checkpoints(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("checkpoint-*"))


def history(trainer: Any) -> list[dict[str, float]]:
    """All logs but the summaries of calls, without times."""
    kept = [log for log in trainer.state.log_history if "train_runtime" not in log]
    return [
        {name: value for name, value in log.items() if "runtime" not in name and "second" not in name}
        for log in kept
    ]


def assert_same_end(one: Any, other: Any) -> None:
    assert history(one) == history(other)
    for name, value in other.model.state_dict().items():
        assert torch.equal(one.model.state_dict()[name], value), name


@pytest.mark.parametrize("action", [press_ctrl_c, send_sigterm, ask_to_stop])
def test_a_run_that_was_stopped_keeps_its_newest_and_its_best_checkpoint(action: Any, tmp_path: Path) -> None:
    # The script goes on after SIGTERM, so that this test does.
    stopped, _ = train(
        tmp_path, At("on_step_end", 5, action), sigterm_exit_code=None, **EVERY_STEP, **BEST_IS_FIRST
    )
    assert stopped.state.global_step == 5
    assert checkpoints(tmp_path) == ["checkpoint-1", "checkpoint-5"]
    whole, _ = train(tmp_path / "whole", **EVERY_STEP, **BEST_IS_FIRST)
    resumed, commits = train(tmp_path, resume=True, **EVERY_STEP, **BEST_IS_FIRST)
    assert commits == [6, 7, 8]
    assert_same_end(resumed, whole)


def test_a_run_that_early_stopping_ended_keeps_its_newest_checkpoint_too(tmp_path: Path) -> None:
    callback = transformers.EarlyStoppingCallback(early_stopping_patience=3)
    stopped, _ = train(tmp_path, callback, **EVERY_STEP, **BEST_IS_FIRST)
    assert stopped.state.global_step == 4
    assert checkpoints(tmp_path) == ["checkpoint-1", "checkpoint-4"]


def test_a_run_that_failed_keeps_both_even_after_its_last_step(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of luck"):
        train(tmp_path, At("on_train_end", 8, fail), **EVERY_STEP, **BEST_IS_FIRST)
    assert checkpoints(tmp_path) == ["checkpoint-1", "checkpoint-8"]


def test_a_run_that_is_over_keeps_the_best_checkpoint_alone(tmp_path: Path) -> None:
    train(tmp_path, **EVERY_STEP, **BEST_IS_FIRST)
    assert checkpoints(tmp_path) == ["checkpoint-1"]


@pytest.mark.parametrize(
    ("event", "step", "options", "commits"),
    [
        ("on_step_end", 3, {"save_strategy": "steps", "save_steps": 3, "max_steps": 8}, [3]),
        ("on_save", 3, {"save_strategy": "steps", "save_steps": 3, "max_steps": 8}, [3]),
        ("on_step_end", 5, EACH_EPOCH, [5]),
        ("on_step_end", EPOCH_STEPS, EACH_EPOCH, [EPOCH_STEPS]),
        ("on_epoch_end", EPOCH_STEPS, EACH_EPOCH, [EPOCH_STEPS]),
        ("on_epoch_end", EPOCH_STEPS, {"save_strategy": "steps", "save_steps": EPOCH_STEPS}, [EPOCH_STEPS]),
    ],
)
def test_ctrl_c_commits_one_checkpoint_and_the_run_goes_on_as_if_nothing_had_been(
    event: str, step: int, options: dict[str, Any], commits: list[int], tmp_path: Path
) -> None:
    interrupt = At(event, step, press_ctrl_c)
    interrupted, made = train(tmp_path, interrupt, **options)
    assert interrupt.calls, "Ctrl-C was pressed"
    assert interrupted.state.global_step == step
    assert made == commits
    whole, _ = train(tmp_path / "whole", **options)
    resumed, _ = train(tmp_path, resume=True, **options)
    assert resumed.state.global_step > step
    assert_same_end(resumed, whole)


def test_a_stop_amid_an_epoch_leaves_the_rest_of_the_epoch_to_the_run_that_goes_on(tmp_path: Path) -> None:
    # Without dropout, because the evaluation where it stops draws from the random state.
    at_5 = At("on_step_end", 5, ask_to_stop)
    stopped, commits = train(tmp_path, at_5, model=make_model(dropout=0.0), **EACH_EPOCH)
    assert (stopped.state.global_step, commits) == (5, [5])
    resumed, _ = train(tmp_path, resume=True, model=make_model(dropout=0.0), **EACH_EPOCH)
    whole, _ = train(tmp_path / "whole", model=make_model(dropout=0.0), **EACH_EPOCH)
    assert resumed.state.global_step == whole.state.global_step == 2 * EPOCH_STEPS
    assert rows(resumed) == rows(whole)


def test_a_run_that_ended_amid_an_epoch_takes_no_further_step_and_saves_nothing_again(tmp_path: Path) -> None:
    options = {**EACH_EPOCH, "num_train_epochs": 1.5}
    ended, commits = train(tmp_path, **options)
    assert commits == [EPOCH_STEPS, 20]
    again, commits = train(tmp_path, resume=True, **options)
    assert (again.state.global_step, commits) == (20, [])
    assert history(again) == history(ended)
    longer, _ = train(tmp_path, resume=True, **EACH_EPOCH)
    assert longer.state.global_step == 2 * EPOCH_STEPS
    assert longer.state.epoch == 2.0


def test_the_speed_of_a_call_that_was_restarted_counts_the_time_of_all_its_attempts(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, max_steps=8, save_strategy="steps", save_steps=1)
    failing = At("on_step_begin", 6, fail)
    trainer.add_callback(failing)
    session = open_local_session(trainer)
    began = time.time()
    context = TaskContext(run_id="one call")
    with pytest.raises(RuntimeError, match="out of luck"):
        session.run("train", (), {}, context=context)
    trainer.remove_callback(failing)
    failed_after = time.time() - began
    returned = session.run("train", (), {}, context=context, restarted=True)
    metrics = from_pieces(returned.value, "train()", {}, {}.__getitem__).metrics
    assert [log["step"] for log in trainer.state.log_history if "loss" in log] == list(range(1, 9))
    assert failed_after < metrics["train_runtime"] <= time.time() - began + 0.01
    speed = metrics["train_samples_per_second"]
    assert math.isclose(speed * metrics["train_runtime"], 8 * 4, rel_tol=0.01)


def test_an_interruption_of_a_stream_leaves_its_position(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(make_samples(20))

    def run(directory: Path, callback: Any = None, *, resume: bool = False) -> Any:
        trainer = make_trainer(raytrainer, directory, max_steps=8, save_strategy="epoch")
        trainer.train_dataset = Stream()
        if callback is not None:
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    run(tmp_path, At("on_step_end", 3, press_ctrl_c))
    assert_same_end(run(tmp_path, resume=True), run(tmp_path / "whole"))
