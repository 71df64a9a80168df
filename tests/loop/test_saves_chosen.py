"""Saves are written beside training by default where they can be and where that pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from raytrainer.checkpoint.names import list_checkpoints, step_of
from raytrainer.loop import saves_chosen
from tests.loop.saves import Calls, content
from tests.parity.twins import make_trainer

pytestmark = pytest.mark.timeout(60)


class Own(raytrainer.Trainer):
    """Reads what it has saved."""

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir, _internal_call)
        assert Path(output_dir, "model.safetensors").stat().st_size > 0


@pytest.fixture
def pays(monkeypatch):
    """Small saves are written beside training, too."""
    monkeypatch.setattr(saves_chosen, "LEAST", 1)


def saved(directory: Path, *, cls: Any = None, **options: Any) -> tuple[Any, list[bool]]:
    """A run, and whether each of its saves had a process when it was committed."""
    seen: list[bool] = []

    class Look(Calls):
        def on_save(self, args, state, control, **kwargs):
            super().on_save(args, state, control, **kwargs)
            run = trainer._process.run
            seen.append(run.saves_beside is not None and run.saves_beside.writer.pid is not None)

    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "report_page": False} | options
    trainer = make_trainer(raytrainer, directory, **options)
    if cls is not None:
        trainer.__class__ = cls
    trainer.add_callback(Look())
    trainer.train()
    assert [step_of(path) for path in list_checkpoints(directory)] == [2, 4]
    return trainer, seen


def test_what_is_small_is_written_in_the_loop(tmp_path):
    trainer, beside = saved(tmp_path)
    assert saves_chosen.size_of_state(trainer) < saves_chosen.LEAST == 64 << 20
    assert beside == [False, False]


def test_what_is_large_is_written_beside_training_and_is_what_the_loop_writes(tmp_path, pays):
    _, beside = saved(tmp_path / "default")
    assert beside == [True, True]
    _, in_the_loop = saved(tmp_path / "sync", async_save=False)
    assert in_the_loop == [False, False]
    for step in (2, 4):
        expected = content(tmp_path / f"sync/checkpoint-{step}")
        assert content(tmp_path / f"default/checkpoint-{step}") == expected


def test_an_override_that_may_read_the_files_finds_them_written(tmp_path, pays):
    assert saved(tmp_path, cls=Own)[1] == [False, False]


def test_a_trial_of_a_sweep_saves_in_the_loop(tmp_path, pays):
    trainer = make_trainer(raytrainer, tmp_path, save_strategy="steps", save_steps=2)
    assert saves_chosen.may_save_beside(trainer)
    trainer._trial = {"learning_rate": 1e-3}
    assert not saves_chosen.may_save_beside(trainer)


def test_a_gpu_saves_in_the_loop_unless_asked(tmp_path, pays, monkeypatch):
    trainer = make_trainer(raytrainer, tmp_path, save_strategy="steps", save_steps=2)
    monkeypatch.setattr(type(trainer.args), "device", torch.device("cuda", 0))
    assert not saves_chosen.may_save_beside(trainer)
    trainer.args.async_save = True
    assert saves_chosen.may_save_beside(trainer)


@pytest.mark.parametrize("asked", [None, True])
def test_without_room_for_a_copy_saves_are_written_in_the_loop_and_that_is_told_once(
    asked, tmp_path, pays, monkeypatch
):
    told: list[str] = []
    monkeypatch.setattr(saves_chosen, "free_memory", lambda: 1000)
    monkeypatch.setattr(saves_chosen, "tell", lambda runtime, text: told.append(text))
    assert saved(tmp_path, async_save=asked)[1] == [False, False]
    assert len(told) == 1
    assert "host memory that a copy of the state takes are not free" in told[0]


def test_the_size_of_a_state_is_that_of_its_files(tmp_path):
    trainer, _ = saved(tmp_path)
    files = [tmp_path / "checkpoint-4" / name for name in ("model.safetensors", "optimizer.pt")]
    assert saves_chosen.size_of_state(trainer) == pytest.approx(
        sum(file.stat().st_size for file in files), rel=0.2
    )
