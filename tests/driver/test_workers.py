"""What the driver says when it gives a trainer to workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import raytrainer
from raytrainer.driver.workers import Workers
from raytrainer.telemetry.events import Note
from tests.driver.same_process import SameProcessGroup, same_process
from tests.parity.twins import make_trainer

__all__ = ["same_process"]


class Screen:
    """Keeps what would be drawn."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def handle(self, event: object) -> None:
        assert isinstance(event, Note)
        self.notes.append(event.text)


def test_a_list_of_the_script_that_a_callback_fills_is_named_once(tmp_path: Path):
    steps: list[int] = []

    class Counts(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(state.global_step)

    trainer = make_trainer(raytrainer, tmp_path, num_ranks=2)
    workers: Any = Workers()
    screen = workers._renderer = Screen()
    workers._tell_of_captured(trainer)
    assert screen.notes == []
    trainer.add_callback(Counts())  # between two calls
    for _ in range(2):
        workers._tell_of_captured(trainer)
    assert len(screen.notes) == 1
    assert "Counts.on_step_end changes `steps` (list)" in screen.notes[0]


def test_a_script_that_was_told_to_end_ends_with_what_its_workers_did(
    tmp_path: Path, same_process: list[SameProcessGroup], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(SameProcessGroup, "gets_sigterm", True)
    trainer = make_trainer(raytrainer, tmp_path, num_ranks=1, max_steps=2)
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == 143
    assert trainer.state.global_step == 2
