"""What the driver and the processes beside it cost per step and worker, and how many messages workers send.

    python benchmarks/control_plane.py [--workers 1 2 4 8 16 32] [--steps 40]

A tiny model on local Ray, with steps of half a second, so that 32 workers too have time for theirs on a few cores. Each
worker needs about 300 MB. For each number of workers: CPU time of the driver, of the control actor and of Ray Train's
controller between two steps far apart, and the calls of the control actor in that time, by method. What is paid per
step should not grow with the number of workers; what is paid for each worker should not grow either.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent / "scripts"))
# ruff: isort: split
from task import Marks, arguments, make_model, make_samples

import raytrainer.control.client
from raytrainer import Trainer, TrainingArguments
from raytrainer.control.actor import ControlActor

FIRST = 10
"""The step after which is measured: workers have warmed up, and the driver has shown its table."""
STEP_S = 0.5
SAMPLE_S = 0.5
TITLES = {"ControlActor": "control actor", "ControllerInRoom": "controller"}
"""What Ray's processes are called."""
SERVED = ("join", "next_task", "finish", "push", "command", "is_over", "update", "set_command")
"""Methods that workers and driver call while a task runs."""


def counting() -> type[ControlActor]:
    """A control actor that notes when it was called."""

    class Counting(ControlActor):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.calls: list[tuple[float, str]] = []

        async def seen(self) -> list[tuple[float, str]]:
            return self.calls

    def noted(name: str) -> Any:
        method = getattr(ControlActor, name)

        @functools.wraps(method)
        async def call(self: Counting, *args: Any) -> Any:
            self.calls.append((time.time(), name))
            return await method(self, *args)

        return call

    for name in SERVED:
        setattr(Counting, name, noted(name))
    Counting.__name__ = Counting.__qualname__ = "ControlActor"
    return Counting


class CpuTimes(threading.Thread):
    """Samples the CPU time of this process, and of two that it started."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, dict[str, float]]] = []
        self.is_over = threading.Event()
        self._found: dict[str, psutil.Process] = {"driver": psutil.Process()}

    def run(self) -> None:
        while not self.is_over.wait(SAMPLE_S):
            if len(self._found) <= len(TITLES):
                self._find()
            times = {
                name: process.cpu_times() for name, process in self._found.items() if process.is_running()
            }
            self.samples.append((time.time(), {name: one.user + one.system for name, one in times.items()}))

    def _find(self) -> None:
        for process in psutil.Process().children(recursive=True):
            title = " ".join(process.cmdline())
            for part, name in TITLES.items():
                if f"ray::{part}" in title:
                    self._found[name] = process

    def between(self, began: float, ended: float) -> dict[str, float]:
        """CPU time of each process between two times [s]."""
        first, last = (min(self.samples, key=lambda one: abs(one[0] - at))[1] for at in (began, ended))
        return {name: last[name] - first[name] for name in last if name in first}


def measure(num_workers: int, steps: int) -> dict[str, Any]:
    """Train on so many workers, and return what was used from the first measured step to the last."""
    share = min(1.0, round(0.9 * (os.cpu_count() or 1) / num_workers, 3))
    directory = Path(tempfile.mkdtemp(prefix="rtb-", dir="/tmp"))
    cpu = CpuTimes()
    try:
        trainer = Trainer(
            model=make_model(),
            args=TrainingArguments(
                num_workers=num_workers,
                resources_per_worker={"CPU": share},
                **(
                    arguments(directory, FIRST + steps + 2)
                    | {"per_device_train_batch_size": 1, "save_strategy": "no"}
                ),
            ),
            train_dataset=make_samples(64 * num_workers),
            callbacks=[Marks(directory, kills=False, step_s=STEP_S)],
        )
        cpu.start()
        trainer.train()
        cpu.is_over.set()
        control: Any = trainer._process.workers._group._started.control.actor
        import ray

        calls = ray.get(control.seen.remote())
        trainer.end()
        marks = [json.loads(line) for line in (directory / "marks.jsonl").read_text().splitlines()]
        at = {mark["step"]: mark["time"] for mark in marks if mark["name"] == "step"}
        began, ended = at[FIRST], at[FIRST + steps]
        return {
            "seconds": ended - began,
            "cpu": cpu.between(began, ended),
            "calls": Counter(name for when, name in calls if began < when <= ended),
        }
    finally:
        cpu.is_over.set()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Measure each number of workers, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    raytrainer.control.client.ControlActor = counting()
    for number in options.workers:
        found = measure(number, options.steps)
        per_step = {name: 1000 * seconds / options.steps for name, seconds in found["cpu"].items()}
        print(f"\n{number} workers, {found['seconds'] / options.steps:.2f} s per step")
        for name, milliseconds in per_step.items():
            print(
                f"  {name:14} CPU {milliseconds:7.2f} ms per step   {milliseconds / number:7.2f} per worker"
            )
        for name, count in sorted(found["calls"].items()):
            each = count / options.steps
            print(f"  {name:14} {each:7.2f} calls per step   {each / number:7.3f} per worker")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
