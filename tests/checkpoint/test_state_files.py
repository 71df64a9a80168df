"""Optimizer, scheduler, scaler and trainer state are restored bitwise, never by an unsafe pickle, never silently."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainerState

from raytrainer.checkpoint.state_files import (
    load_trainer_state,
    save_trainer_state,
)
from raytrainer.errors import CheckpointError
from tests.checkpoint.optimizers import load_optimizer_files, save_optimizer_files
from tests.checkpoint.saving import names

MODEL = nn.Linear(4, 2)
"""Says only that parameters are whole."""


def training(optimizer_class=torch.optim.AdamW, steps=3, width=4, **options):
    """An optimizer and a scheduler after some steps on a small model."""
    torch.manual_seed(0)
    model = nn.Linear(width, 2)
    optimizer = optimizer_class(model.parameters(), **{"lr": 0.1, **options})
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    for _ in range(steps):
        model(torch.randn(3, width)).sum().backward()
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler


def flat(state):
    return json.dumps(state, default=lambda value: value.tolist(), sort_keys=True)


@pytest.mark.parametrize("optimizer_class", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_optimizer_and_schedule_come_back_bit_by_bit(tmp_path, optimizer_class):
    optimizer, scheduler = training(optimizer_class)
    written = save_optimizer_files(tmp_path, optimizer=optimizer, scheduler=scheduler)
    assert [path.name for path in written] == ["optimizer.pt", "scheduler.pt"]
    fresh, fresh_scheduler = training(optimizer_class, steps=0)
    assert load_optimizer_files(tmp_path, model=MODEL, optimizer=fresh, scheduler=fresh_scheduler) is True
    assert flat(fresh.state_dict()) == flat(optimizer.state_dict())
    assert fresh_scheduler.state_dict() == scheduler.state_dict()


def test_a_scaler_is_saved_and_restored_when_there_is_one(tmp_path):
    optimizer, scheduler = training()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    save_optimizer_files(tmp_path, optimizer=optimizer, scheduler=scheduler, scaler=scaler)
    fresh = torch.amp.GradScaler("cpu")
    load_optimizer_files(tmp_path, model=MODEL, optimizer=optimizer, scheduler=scheduler, scaler=fresh)
    assert fresh.state_dict() == scaler.state_dict()


def test_a_missing_scaler_state_is_a_warning(tmp_path, caplog):
    optimizer, scheduler = training()
    save_optimizer_files(tmp_path, optimizer=optimizer, scheduler=scheduler)
    load_optimizer_files(
        tmp_path, model=MODEL, optimizer=optimizer, scheduler=scheduler, scaler=torch.amp.GradScaler("cpu")
    )
    assert "loss scaling starts fresh" in caplog.text


def test_a_checkpoint_without_optimizer_and_schedule_says_that_they_begin_anew(tmp_path, caplog):
    optimizer, scheduler = training()
    assert load_optimizer_files(tmp_path, model=MODEL, optimizer=optimizer, scheduler=scheduler) is False
    assert "start fresh" in caplog.text


def test_one_of_the_two_alone_is_an_error(tmp_path):
    optimizer, scheduler = training()
    save_optimizer_files(tmp_path, optimizer=optimizer, scheduler=scheduler)
    (tmp_path / "scheduler.pt").unlink()
    with pytest.raises(CheckpointError, match=r"has optimizer\.pt, but not"):
        load_optimizer_files(tmp_path, model=MODEL, optimizer=optimizer, scheduler=scheduler)


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    optimizer, scheduler = training()
    save_optimizer_files(tmp_path, optimizer=optimizer, scheduler=scheduler)
    other = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(
        CheckpointError,
        match=r"another optimizer, and this run has SGD: .* lacks dampening, momentum",
    ):
        load_optimizer_files(tmp_path, model=MODEL, optimizer=other, scheduler=scheduler)


def test_a_damaged_file_is_an_error(tmp_path):
    optimizer, scheduler = training()
    save_optimizer_files(tmp_path, optimizer=optimizer, scheduler=scheduler)
    (tmp_path / "optimizer.pt").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match=r"optimizer\.pt cannot be read"):
        load_optimizer_files(tmp_path, model=MODEL, optimizer=optimizer, scheduler=scheduler)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    optimizer, scheduler = training()
    save_optimizer_files(tmp_path, optimizer=optimizer, scheduler=scheduler)
    torch.save({"x": Evil()}, tmp_path / "optimizer.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_optimizer_files(tmp_path, model=MODEL, optimizer=optimizer, scheduler=scheduler)


def test_a_learning_rate_of_numpy_comes_back(tmp_path):
    optimizer, scheduler = training(lr=np.float64(0.25))
    save_optimizer_files(tmp_path, optimizer=optimizer, scheduler=scheduler)
    fresh, fresh_scheduler = training(steps=0)
    load_optimizer_files(tmp_path, model=MODEL, optimizer=fresh, scheduler=fresh_scheduler)
    assert fresh.param_groups[0]["initial_lr"] == 0.25


class Strange:
    """An object that only an unsafe pickle could restore."""


def test_a_state_that_could_not_be_read_back_is_refused_when_it_is_saved(tmp_path):
    optimizer, scheduler = training()
    optimizer.param_groups[0]["note"] = Strange()
    with pytest.raises(CheckpointError, match=r"The state of AdamW holds .*Strange"):
        save_optimizer_files(tmp_path, optimizer=optimizer, scheduler=scheduler)


def test_mapped_loading_gives_the_same_state(tmp_path):
    # a device off the CPU is not there in tests; what differs for one is that the file is mapped
    optimizer, scheduler = training()
    save_optimizer_files(tmp_path, optimizer=optimizer, scheduler=scheduler)
    fresh, fresh_scheduler = training(steps=0)
    load_optimizer_files(
        tmp_path, model=MODEL, optimizer=fresh, scheduler=fresh_scheduler, device=torch.device("meta")
    )
    assert flat(fresh.state_dict()) == flat(optimizer.state_dict())


def state_of_a_run():
    return TrainerState(
        global_step=7,
        epoch=0.7,
        max_steps=10,
        log_history=[{"loss": 0.5, "step": 5}, {"loss": float("nan"), "step": 7}],
        stateful_callbacks={},
    )


def test_the_trainer_state_has_the_bytes_of_transformers(tmp_path):
    state = state_of_a_run()
    state.save_to_json(str(tmp_path / "theirs.json"))
    assert save_trainer_state(tmp_path, state).read_bytes() == (tmp_path / "theirs.json").read_bytes()


def test_the_trainer_state_comes_back(tmp_path):
    state = state_of_a_run()
    state.stateful_callbacks = {"TrainerControl": {"args": {}, "attributes": {}}}
    save_trainer_state(tmp_path, state)
    loaded = load_trainer_state(tmp_path)
    assert {**dataclasses.asdict(loaded), "log_history": []} == {
        **dataclasses.asdict(state),
        "log_history": [],
    }
    assert loaded.log_history[0] == state.log_history[0]
    assert np.isnan(loaded.log_history[1]["loss"])


def test_numbers_of_numpy_and_torch_in_logs_are_written_as_numbers(tmp_path):
    state = state_of_a_run()
    state.log_history = [{"a": np.float32(0.5), "b": torch.tensor(2), "c": np.arange(2)}]
    save_trainer_state(tmp_path, state)
    assert load_trainer_state(tmp_path).log_history == [{"a": 0.5, "b": 2, "c": [0, 1]}]


def test_what_json_cannot_hold_is_named(tmp_path):
    state = state_of_a_run()
    state.log_history = [{"a": Strange()}]
    with pytest.raises(TypeError, match="cannot hold a Strange"):
        save_trainer_state(tmp_path, state)


@pytest.mark.parametrize("content", ["", "[]", '{"global_step": 1', '{"no_such_field": 1}'])
def test_a_damaged_trainer_state_is_an_error(tmp_path, content):
    (tmp_path / "trainer_state.json").write_text(content)
    with pytest.raises(CheckpointError, match="cannot be read as a trainer state"):
        load_trainer_state(tmp_path)


def test_a_missing_trainer_state_is_an_error(tmp_path):
    with pytest.raises(CheckpointError):
        load_trainer_state(tmp_path)
    assert names(tmp_path) == []
