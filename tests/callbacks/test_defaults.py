"""Which callbacks every run has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments
from transformers.trainer_callback import DefaultFlowCallback, PrinterCallback, ProgressCallback

import raytrainer
from raytrainer.callbacks.defaults import default_callbacks
from tests.parity.twins import LIBRARIES, make_trainer


def test_without_reporters_only_the_default_flow_is_there(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert default_callbacks(args) == [DefaultFlowCallback]


def test_reporters_follow_the_default_flow(tmp_path):
    from transformers.integrations import TensorBoardCallback

    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    args.report_to = ["tensorboard"]
    flow, reporter = default_callbacks(args)
    assert flow is DefaultFlowCallback
    assert isinstance(reporter, TensorBoardCallback)


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_the_list_has_the_classes_that_transformers_has(tmp_path: Path, disable_tqdm: bool):
    ours, theirs = (
        make_trainer(library, tmp_path, disable_tqdm=disable_tqdm).callback_handler.callbacks
        for library in LIBRARIES.values()
    )
    assert [type(callback) for callback in ours] == [type(callback) for callback in theirs]


class OwnProgress(ProgressCallback):
    """What people write to show fewer numbers."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.shown: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.shown += [logs["loss"]] if "loss" in logs else []

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pass


def printed_by(trainer: Any, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    trainer.train()
    return capsys.readouterr().out


def test_logs_are_printed_once_and_not_after_the_printer_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    trainer = make_trainer(raytrainer, tmp_path, max_steps=2)
    assert printed_by(trainer, capsys).count("grad_norm=") == 2
    trainer.remove_callback(PrinterCallback)
    assert printed_by(trainer, capsys).count("grad_norm=") == 0


def test_a_subclass_of_the_progress_callback_takes_the_place_of_the_original(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    trainer = make_trainer(raytrainer, tmp_path, max_steps=2, disable_tqdm=False)
    assert type(trainer.pop_callback(ProgressCallback)) is ProgressCallback
    own = OwnProgress()
    trainer.add_callback(own)
    assert printed_by(trainer, capsys).count("grad_norm=") == 0
    assert own.shown == [log["loss"] for log in trainer.state.log_history if "loss" in log]
