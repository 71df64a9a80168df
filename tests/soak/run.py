"""Trains with faults: ``python -m tests.soak.run DIR ROUND``; started again, it goes on from its newest checkpoint.

All faults come from within the workers, at a place that the round names. A file per fault says that it has happened.
When training is done, ``DIR/result.json`` has the losses, the evaluations and a digest of the weights.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import safetensors.torch
import torch
from transformers import TrainerCallback

from raytrainer import Trainer
from raytrainer.checkpoint import commit
from raytrainer.checkpoint.background import writer
from raytrainer.checkpoint.background.arena import Arena
from raytrainer.checkpoint.background.pending import PendingSave
from tests.faults.victims import augmented, make_trainer, own_raylet_pid
from tests.soak import process
from tests.soak.plan import EVAL_STEPS, IN_A_SAVE, NUM_STEPS, SAVE_STEPS, Round, Setup

OPTIONS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"fsdp": "full_shard"},
    "zero2": {"deepspeed": {"zero_optimization": {"stage": 2}}},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
}
TITLES = {
    "kill control actor": "ray::ControlActor",
    "kill controller": "ray::Controller",
    "kill coordinator": "ray::_AutoscalingCoordinator",
}
"""What the processes that help a run are called."""
STAGED = 2
"""Which tensor of a save a worker dies at while it is staged."""
SECOND_S = 0.3
"""Between two signals of an impatient person [s]."""


class Faults(TrainerCallback):
    """Does what the round says, once each."""

    def __init__(self, asked: Round, directory: Path, driver: int) -> None:
        self.round = asked
        self.faults = asked.faults
        self.directory = directory
        self.driver = driver
        self.rank = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rank = args.process_index
        if self.round.setup.saves_beside:
            self._in_saves_beside()
            return
        if not any(fault.kind in IN_A_SAVE for fault in self.faults):
            return
        is_sharded = bool(args.fsdp or args.deepspeed)
        owner, name = (safetensors.torch, "save_file") if is_sharded else (kwargs["model"], "save_pretrained")
        self._around(owner, name, {"kill worker after its first file": (False, self._die)})
        self._around(
            commit,
            "write_synced",
            {
                "kill worker before the manifest": (True, self._die),
                "kill worker after the manifest": (False, self._die),
                "disk full": (True, _no_space),
                "slow disk": (True, lambda: time.sleep(1.0)),
            },
        )

    def _in_saves_beside(self) -> None:
        writer.PROCESS = process.NAME
        os.environ[process.VARIABLE] = json.dumps([str(self.directory), self.round.to_json(), self.rank])
        stage, take = PendingSave.stage, Arena.take
        counted = {"step": 0, "tensors": 0}

        def staged(pending: PendingSave, write_parts: Any) -> int:
            counted.update(step=pending.step, tensors=0)
            for fault in self.faults:
                if "milliseconds" in fault.kind and (fault.step, fault.rank) == (pending.step, self.rank):
                    self._at(fault.kind, fault.step, lambda delay_s=fault.delay_s: self._die_in(delay_s))
            return stage(pending, write_parts)

        def taken(arena: Arena, source: torch.Tensor) -> Any:
            counted["tensors"] += 1
            if counted["tensors"] == STAGED:
                self._at("kill worker while a save is staged", counted["step"], self._die)
            return take(arena, source)

        PendingSave.stage, Arena.take = staged, taken

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at("kill worker before the optimizer's step", state.global_step + 1, self._die)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        self._at("kill worker at the end of a step", step, self._die)
        self._at("kill loader", step, _kill_loader)
        self._at("kill raylet", step, lambda: os.kill(own_raylet_pid(), signal.SIGKILL))
        for kind, title in TITLES.items():
            self._at(kind, step, lambda title=title: _kill_beside(title))
        self._at("kill driver", step, lambda: os.kill(self.driver, signal.SIGKILL))
        self._at("interrupt driver", step, lambda: os.kill(self.driver, signal.SIGINT))
        self._at("interrupt driver twice", step, self._interrupt_twice)
        self._at("terminate driver", step, lambda: os.kill(self.driver, signal.SIGTERM))

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at("kill worker in an evaluation", state.global_step, self._die)

    def _at(self, kind: str, step: int, do: Callable[[], None]) -> None:
        for fault in self.faults:
            if (fault.kind, fault.step, fault.rank) == (kind, step, self.rank):
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(self.directory / f"{fault}.done", os.O_CREAT | os.O_EXCL))
                    do()

    def _around(self, owner: Any, name: str, faults: dict[str, tuple[bool, Callable[[], None]]]) -> None:
        """Do something before or after a function that writes into a checkpoint."""
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            steps = [step for step in range(NUM_STEPS + 1) if f"checkpoint-{step}." in f"{args[:2]}"]
            for is_before in (True, False):
                result = None if is_before else original(*args, **kwargs)
                for kind, (before, do) in faults.items():
                    for step in steps:
                        if before == is_before:
                            self._at(kind, step, do)
            return result

        setattr(owner, name, wrapped)

    def _die_in(self, delay_s: float) -> None:
        threading.Timer(delay_s, self._die).start()

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _interrupt_twice(self) -> None:
        os.kill(self.driver, signal.SIGINT)
        time.sleep(SECOND_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.driver, signal.SIGINT)


def _no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _kill_loader() -> None:
    loaders = psutil.Process().children()
    assert loaders, "no loading process"
    loaders[0].kill()


def _kill_beside(title: str) -> None:
    """Kill a process of the same raylet."""
    beside = psutil.Process(own_raylet_pid()).children()
    (found,) = (process for process in beside if " ".join(process.cmdline()).startswith(title))
    found.kill()


def trainer_of(setup: Setup, directory: Path, *callbacks: TrainerCallback) -> Trainer:
    """The trainer of a round; its samples and its collator draw at random."""
    return augmented(
        make_trainer(
            directory / "run",
            *callbacks,
            max_steps=NUM_STEPS,
            save_steps=SAVE_STEPS,
            eval_strategy="steps",
            eval_steps=EVAL_STEPS,
            dataloader_num_workers=setup.num_loaders,
            max_failures=10,
            report_to=[],
            async_save=setup.saves_beside,
            **OPTIONS[setup.backend],
        )
    )


def digest(trainer: Trainer) -> str:
    """Of all weights."""
    found = hashlib.sha256()
    for name, value in sorted(trainer.model.state_dict().items()):
        found.update(name.encode())
        found.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def main(directory: Path, text: str) -> None:
    asked = Round.from_json(text)
    trainer = trainer_of(asked.setup, directory, Faults(asked, directory, os.getpid()))
    trainer.train(resume_from_checkpoint="auto")
    if trainer.state.global_step < NUM_STEPS:
        sys.exit("stopped")
    logs = trainer.state.log_history
    result = {
        "losses": [(log["step"], log["loss"]) for log in logs if "loss" in log],
        "evaluations": [(log["step"], log["eval_loss"]) for log in logs if "eval_loss" in log],
        "weights": digest(trainer),
    }
    draft = directory / "result.draft"
    draft.write_text(json.dumps(result))
    draft.rename(directory / "result.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
