"""A save beside training on a GPU: pinned memory, and files that say where the tensors were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer
from tests.loop.saves import content
from tests.parity.twins import make_args, make_model, make_samples, rows

pytestmark = pytest.mark.gpu


class LooksAtMemory(transformers.TrainerCallback):
    """Notes whether the copy of a save is in pinned memory."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.pinned: set[bool] = set()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        saves = self.trainer._process.run.saves_beside
        if saves is not None:
            self.pinned |= {segment.content.is_pinned() for segment in saves.writer.segments}


def trained(directory: Path, *, async_save: bool) -> Any:
    memory = LooksAtMemory()
    trainer = raytrainer.Trainer(
        model=make_model(),
        args=make_args(
            raytrainer,
            directory,
            use_cpu=False,
            max_steps=6,
            save_strategy="steps",
            save_steps=2,
            async_save=async_save,
            report_page=False,
        ),
        train_dataset=make_samples(),
        callbacks=[memory],
    )
    memory.trainer = trainer
    trainer.train()
    return trainer, memory


def test_checkpoints_are_bitwise_those_of_synchronous_saves(tmp_path: Path) -> None:
    sync, _ = trained(tmp_path / "sync", async_save=False)
    beside, memory = trained(tmp_path / "beside", async_save=True)
    assert next(beside.model.parameters()).device.type == "cuda"
    assert memory.pinned == {True}
    assert rows(beside) == rows(sync)
    for step in (2, 4, 6):
        expected = content(tmp_path / f"sync/checkpoint-{step}")
        found = content(tmp_path / f"beside/checkpoint-{step}")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name] == value, name
    state = torch.load(tmp_path / "beside/checkpoint-6/optimizer.pt", weights_only=True)
    assert {entry["exp_avg"].device.type for entry in state["state"].values()} == {"cuda"}
