"""What the driver says when it gives a trainer to workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

import raytrainer
from raytrainer.driver.workers import Workers
from raytrainer.telemetry.events import Note
from tests.parity.twins import make_trainer


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
