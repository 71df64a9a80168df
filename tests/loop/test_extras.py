"""Minor arguments: each takes effect, with the numbers of ``transformers.Trainer``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer
from tests.parity.twins import (
    LIBRARIES,
    TOLERANCE,
    assert_equal_runs,
    make_model,
    make_samples,
    make_trainer,
    rows,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Watch(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.recomputes: set[bool] = set()
        self.layer_calls = 0

    def on_train_begin(self, args, state, control, **kwargs):
        def count(*_):
            self.layer_calls += 1

        kwargs["model"].model.layers[0].input_layernorm.register_forward_hook(count)

    def on_step_end(self, args, state, control, **kwargs):
        self.recomputes.add(kwargs["model"].is_activation_checkpointing)


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_checkpointed_activations_are_computed_twice_and_change_no_number(name: str, tmp_path: Path) -> None:
    runs = {}
    for wish in (False, True):
        trainer = make_trainer(
            raytrainer, tmp_path / str(wish), max_steps=3, **({name: True} if wish else {})
        )
        watch = Watch()
        trainer.add_callback(watch)
        trainer.train()
        assert watch.recomputes == {wish}
        assert watch.layer_calls == (6 if wish else 3)
        runs[wish] = rows(trainer)
    for mine, other in zip(runs[True], runs[False], strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)


def test_the_cache_of_the_gpu_is_emptied_every_so_many_steps(tmp_path: Path, monkeypatch: Any) -> None:
    emptied: list[int] = []
    trainer = make_trainer(raytrainer, tmp_path, max_steps=5, torch_empty_cache_steps=2)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(trainer.state.global_step))
    real = type(trainer).training_step

    def as_if_on_gpu(self, *args, **kwargs):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: True)
            return real(self, *args, **kwargs)

    monkeypatch.setattr(type(trainer), "training_step", as_if_on_gpu)
    trainer.train()
    assert emptied == [0, 2, 4]


def test_model_init_is_called_anew_with_the_trial_it_takes(tmp_path: Path) -> None:
    trials: list[Any] = []

    def make(trial):
        trials.append(trial)
        return make_model()

    trainer = raytrainer.Trainer(
        model_init=make,
        args=make_trainer(raytrainer, tmp_path, max_steps=3).args,
        train_dataset=make_samples(),
    )
    trainer.train()
    once = rows(trainer)
    trainer.train()
    assert rows(trainer) == once, "the second training went on with the first one's weights or optimizer"
    assert trials == [None] * len(trials)
    assert len(trials) >= 2


def test_a_compute_loss_func_gives_the_numbers_of_transformers(tmp_path: Path) -> None:
    def loss(outputs, labels, num_items_in_batch=None):
        logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        total = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
        return total / (num_items_in_batch if num_items_in_batch is not None else (targets != -100).sum())

    trained = []
    for name, library in LIBRARIES.items():
        plain = make_trainer(library, tmp_path / name, max_steps=4, gradient_accumulation_steps=2)
        trainer = library.Trainer(
            model=plain.model, args=plain.args, train_dataset=plain.train_dataset, compute_loss_func=loss
        )
        trainer.train()
        trained.append(trainer)
    assert_equal_runs(*trained)


@pytest.mark.parametrize("counts", ["all", "non_padding"])
def test_tokens_are_counted_and_their_speed_is_logged_as_in_transformers(counts: str, tmp_path: Path) -> None:
    logs = {}
    for name, library in LIBRARIES.items():
        trainer = make_trainer(
            library, tmp_path / name, max_steps=3, include_num_input_tokens_seen=counts, model=make_model()
        )
        trainer.train_dataset = [
            {**sample, "attention_mask": (torch.arange(16) < 10).long()} for sample in make_samples()
        ]
        trainer.train()
        logs[name] = [log for log in trainer.state.log_history if "loss" in log]
    for mine, other in zip(logs["ours"], logs["theirs"], strict=True):
        assert mine.keys() == other.keys() >= {"train_tokens_per_second", "train_runtime"}
        assert mine["num_input_tokens_seen"] == other["num_input_tokens_seen"] > 0
        assert mine["train_tokens_per_second"] > 0


def test_memory_is_measured_where_it_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    trainer = make_trainer(raytrainer, tmp_path, max_steps=1, skip_memory_metrics=False)
    metrics = trainer.train().metrics
    assert {"init_mem_cpu_alloc_delta", "train_mem_cpu_alloc_delta", "before_init_mem_cpu"} <= metrics.keys()
    assert "eval_mem_cpu_alloc_delta" in trainer.evaluate()


def test_saved_metrics_and_state_hold_what_the_run_gave(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, max_steps=2)
    metrics = trainer.train().metrics
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_metrics("eval", trainer.evaluate())
    trainer.save_state()
    assert json.loads((tmp_path / "train_results.json").read_text()) == metrics
    everything = json.loads((tmp_path / "all_results.json").read_text())
    assert {"train_loss", "eval_loss"} <= everything.keys()
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["log_history"] == trainer.state.log_history
    assert state["global_step"] == 2
