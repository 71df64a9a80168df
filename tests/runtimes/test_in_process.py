"""What a run in one process does when it is asked to end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import raytrainer
from tests.parity.twins import make_trainer, rows


class Terminated(TrainerCallback):
    """Gets SIGTERM twice in the middle of a step, as from a scheduler that takes the machine away."""

    def __init__(self, number: signal.Signals = signal.SIGTERM, *, times: int = 2) -> None:
        self.number = number
        self.times = times

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def test_sigterm_saves_at_the_next_boundary_and_stops_and_the_run_goes_on_from_there(tmp_path: Path):
    options: dict[str, Any] = {"max_steps": 6, "enable_jit_checkpoint": True, "save_strategy": "steps"}
    trainer = make_trainer(raytrainer, tmp_path / "cut", **options)
    trainer.add_callback(Terminated())
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == 143
    assert trainer.state.global_step == 3
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-3"]

    resumed = make_trainer(raytrainer, tmp_path / "cut", **options)
    resumed.train(resume_from_checkpoint=True)
    whole = make_trainer(raytrainer, tmp_path / "whole", **options)
    whole.train()
    assert rows(resumed) == rows(whole)


@pytest.mark.parametrize(("asked", "seen"), [(7, 7), (None, None)])
def test_after_sigterm_the_process_ends_as_asked(asked: int | None, seen: int | None, tmp_path: Path):
    trainer = make_trainer(raytrainer, tmp_path, max_steps=6, sigterm_exit_code=asked)
    trainer.add_callback(Terminated(times=1))
    if seen is None:
        assert trainer.train().global_step == 3
    else:
        with pytest.raises(SystemExit) as ended:
            trainer.train()
        assert ended.value.code == seen
    assert (tmp_path / "checkpoint-3" / "manifest.json").exists()


def test_ctrl_c_does_not_end_the_script(tmp_path: Path):
    trainer = make_trainer(raytrainer, tmp_path, max_steps=6)
    trainer.add_callback(Terminated(signal.SIGINT, times=1))
    assert trainer.train().global_step == 3


def test_the_output_directory_holds_checkpoints_and_the_record_of_the_run(tmp_path: Path):
    trainer = make_trainer(
        raytrainer, tmp_path, max_steps=2, save_strategy="steps", save_steps=1, report_page=False
    )
    trainer.train()
    trainer.evaluate()
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-1", "checkpoint-2", "events.jsonl", "metrics.jsonl"]
