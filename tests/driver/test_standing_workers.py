"""What is changed on the driver between two calls counts on workers that stand already, as it does in one process."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import TrainerCallback

import raytrainer
from tests.parity.twins import make_model, make_samples

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.usefixtures("ray_cluster")]


class Scale(TrainerCallback):
    """Counts steps, and remembers the trainer that it was given."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.num_steps = 0
        self.trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.num_steps += 1
        assert self.trainer is None or self.trainer.args is args

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs["factor"] = self.factor


class Scaled(raytrainer.Trainer):
    """Its loss has a factor that is an attribute."""

    factor = 1.0

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        answer = super().compute_loss(model, inputs, *args, **kwargs)
        if isinstance(answer, tuple):
            return answer[0] * self.factor, answer[1]
        return answer * self.factor

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        return super().evaluate(*args, **kwargs) | {"pid": os.getpid()}


class Double:
    """A collator with a setting."""

    def __init__(self) -> None:
        self.repeat = 1

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        return {name: tensor.repeat(self.repeat, 1) for name, tensor in batch.items()}


def share_of_zeros(prediction: Any) -> dict[str, float]:
    return {"zeros": float((prediction.label_ids <= 3).mean())}


def make_trainer(directory: Path, num_workers: int) -> Scaled:
    args = raytrainer.TrainingArguments(
        output_dir=str(directory),
        num_workers=num_workers,
        per_device_train_batch_size=4,
        max_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Scaled(
        model=make_model(dropout=0.0),
        args=args,
        data_collator=Double(),
        train_dataset=make_samples(16),
        eval_dataset=make_samples(10),
        callbacks=[Scale()],
    )
    scale_of(trainer).trainer = trainer
    return trainer


def scale_of(trainer: Any) -> Scale:
    """The newest of the user's callbacks."""
    return [one for one in trainer.callback_handler.callbacks if isinstance(one, Scale)][-1]


def losses(trainer: Any) -> list[Any]:
    kept = ("step", "loss", "eval_loss", "eval_zeros", "eval_other_loss", "factor", "learning_rate")
    return [{name: log[name] for name in kept if name in log} for log in trainer.state.log_history]


def changed_in_all_ways(trainer: Any) -> list[list[Any]]:
    """Train and evaluate, with a change before each call; what each call logged."""
    logged = []

    def log() -> None:
        logged.append(losses(trainer))

    trainer.train()
    log()
    trainer.train_dataset = make_samples(24)[8:]
    trainer.args.max_steps = 3
    trainer.args.max_grad_norm = 0.1
    trainer.add_callback(Scale(7.0))
    trainer.train()
    log()
    scale_of(trainer).factor = 3.0
    trainer.factor = 0.5
    trainer.eval_dataset = {"other": make_samples(6), "more": make_samples(7)}
    trainer.compute_metrics = share_of_zeros
    trainer.data_collator.repeat = 2
    trainer.evaluate()
    log()
    trainer.train_dataset[0]["labels"].fill_(-100)
    trainer.eval_dataset["other"].append(make_samples(1)[0])
    trainer.remove_callback(Scale)
    trainer.train()
    log()
    with torch.no_grad():
        next(iter(trainer.model.parameters())).mul_(0.5)
    trainer.evaluate()
    log()
    del trainer.factor
    next(iter(trainer.model.parameters())).data.mul_(0.5)
    trainer.train()
    log()
    return logged


def test_changes_between_two_calls_count_as_in_one_process_and_workers_end_with_their_trainer(
    tmp_path: Path,
) -> None:
    alone = make_trainer(tmp_path / "alone", 0)
    expected = changed_in_all_ways(alone)
    on_ray = make_trainer(tmp_path / "ray", 1)
    seen = changed_in_all_ways(on_ray)
    pid = on_ray.evaluate()["pid"]
    assert on_ray.evaluate()["pid"] == pid != os.getpid()
    assert seen == expected
    assert len({str(one) for one in expected}) == len(expected), "each change shows"

    del on_ray
    gc.collect()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, "workers end with their trainer"
        time.sleep(0.1)
