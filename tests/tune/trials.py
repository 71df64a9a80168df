"""What the trials of the tests train: a tiny model, whose hyperparameters can also make a trial fail."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import raytrainer
from tests.parity.twins import make_model, make_samples


def model_of(trial: Any) -> torch.nn.Module:
    """A model with the dropout of the trial; one trial may raise, another one gives NaN."""
    fault = (trial or {}).get("fault")
    if fault == "raises":
        raise RuntimeError("this trial cannot build its model")
    model = make_model(dropout=(trial or {}).get("dropout", 0.1))
    if fault == "nan":
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))
    return model


class KillsOnce(TrainerCallback):
    """In trials whose fault says so, kills the worker of the last rank, or the process of the trial, once each."""

    def __init__(self, directory: Path, *, step: int) -> None:
        self.directory, self.step = str(directory), step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        fault = str((state.trial_params or {}).get("fault"))
        marker = Path(self.directory) / fault
        is_last = args.process_index == args.world_size - 1
        if state.global_step != self.step or not fault.endswith("killed") or not is_last or marker.exists():
            return
        marker.touch()
        os.kill(os.getpid() if fault.startswith("worker") else trial_process(args.output_dir), signal.SIGKILL)


class OtherRate(TrainerCallback):
    """After a step, another learning rate; the schedule stays where it stands."""

    def __init__(self, step: int, rate: float) -> None:
        self.step, self.rate = step, rate

    def on_step_end(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, lr_scheduler: Any = None, **kw: Any
    ) -> None:
        if state.global_step != self.step:
            return
        lr_scheduler.base_lrs = [self.rate] * len(lr_scheduler.base_lrs)
        for group, rate in zip(optimizer.param_groups, lr_scheduler.get_lr(), strict=True):
            group["lr"] = rate


def trial_process(output_dir: str) -> int:
    """The process of the trial with this directory: the other one that has its log open."""
    log = os.path.join(output_dir, "logs", "driver.log")
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                handles = [os.readlink(handle) for handle in (process / "fd").iterdir()]
            except OSError:
                continue
            if log in handles:
                return int(process.name)
    raise AssertionError("there is no trial's process")


def make_trainer(directory: Path, *, num_workers: int = 1, callbacks: Any = None, **changes: Any) -> Any:
    options = {
        "output_dir": str(directory),
        "num_workers": num_workers,
        "use_cpu": True,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 2,
        "report_to": [],
        "disable_tqdm": True,
        **changes,
    }
    return raytrainer.Trainer(
        model_init=model_of,
        args=raytrainer.TrainingArguments(**options),
        train_dataset=make_samples(),
        eval_dataset=make_samples(10),
        callbacks=callbacks,
    )


def weights_of(checkpoint: Any) -> dict[str, torch.Tensor]:
    return load_file(Path(checkpoint) / "model.safetensors")


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def quiet_run(directory: Path, rate: float, **changes: Any) -> Any:
    """The same run as a trial's, in this process."""
    trainer = make_trainer(directory, learning_rate=rate, **changes | {"num_workers": 0})
    trainer.train()
    return trainer


def states_are_equal(one: Path, other: Path) -> bool:
    """Whether two checkpoints have the same state of the optimizer, bit by bit."""
    first, second = (torch.load(path / "optimizer.pt", weights_only=True)["state"] for path in (one, other))
    return first.keys() == second.keys() and all(
        torch.equal(torch.as_tensor(first[key][name]), torch.as_tensor(second[key][name]))
        for key in first
        for name in first[key]
    )
