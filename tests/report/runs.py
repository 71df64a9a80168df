"""Runs that the tests of the report read: made of events, as rank 0 and a driver write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raytrainer.telemetry.events import (
    CheckpointCommitted,
    EngagedRow,
    Logged,
    Note,
    StepDone,
    TrainEnded,
    TrainStarted,
)
from raytrainer.telemetry.run_files import RunFiles

ROWS = [EngagedRow(what="workers", requested="(1, 4)", engaged="4 workers <b>on</b> 2 nodes")]
SPIKE = 700.0


class WrittenRun:
    """Writes a run of ``num_steps`` steps.

    Args:
        directory: Where.
        num_steps: How many.
        began: When [s since the epoch].
    """

    def __init__(self, directory: Path, num_steps: int, *, began: float = 1.7e9) -> None:
        self.directory, self.num_steps, self.now, self.attempt = directory, num_steps, began, 0
        self.run = "one"
        options = {"clock": lambda: self.now}
        self.rank = RunFiles(directory, rank=0, run=lambda: (self.run, self.attempt), tells=False, **options)
        self.driver = RunFiles(directory, rank=None, run=lambda: (self.run, 0), **options)

    def start(self, first: int, workers: int = 4, **arguments: object) -> None:
        """An attempt begins."""
        event = TrainStarted(
            max_steps=self.num_steps,
            first_step=first,
            num_epochs=1,
            attempt=self.attempt,
            rows=ROWS,
            num_workers=workers,
            arguments={"learning_rate": 1e-3, **arguments},
        )
        self.rank.handle(event)
        self.driver.handle(event)

    def steps(
        self, begin: int, end: int, *, spike: int = -1, logs: Callable[[int], dict[str, object]] | None = None
    ) -> None:
        """Steps from ``begin`` + 1 to ``end``, each logged after one second.

        Args:
            begin: Steps that are done.
            end: The last step.
            spike: The step with the loss ``SPIKE``, unless ``logs`` are given.
            logs: What is logged of a step.
        """
        for step in range(begin + 1, end + 1):
            self.now += 1
            self.rank.handle(
                StepDone(step=step, max_steps=self.num_steps, epoch=0.1, samples_per_s=[2.0, 3.0])
            )
            smooth = {"loss": SPIKE if step == spike else 1 / step, "grad_norm": 1.0, "learning_rate": 1e-3}
            values = smooth if logs is None else logs(step)
            event = Logged(step=step, max_steps=self.num_steps, logs=values)
            self.rank.handle(event)
            self.driver.handle(event)

    def save(self, step: int, waited_s: float | None = None) -> None:
        """A checkpoint, of which there is only the directory."""
        event = CheckpointCommitted(
            step=step, path=f"checkpoint-{step}", num_bytes=10**6, seconds=0.5, waited_s=waited_s
        )
        self.rank.handle(event)
        (self.directory / f"checkpoint-{step}").mkdir()

    def restart(self, cause: str, first: int, workers: int = 4) -> None:
        """The workers die, and others begin."""
        self.driver.handle(Note(text=cause, level="warning", kind="restart"))
        self.now += 30
        self.attempt += 1
        self.start(first, workers)

    def resize(self, text: str) -> None:
        """There are other workers than before."""
        self.driver.handle(Note(text=text, level="warning", kind="resize"))

    def end(self) -> None:
        """Training has ended."""
        self.rank.handle(TrainEnded(step=self.num_steps, metrics={"train_runtime": 1.0}))


def two_deaths(directory: Path, num_steps: int) -> WrittenRun:
    """A run with two deaths and a resize, whose loss has one spike at four fifths of it."""
    run = WrittenRun(directory, num_steps)
    run.start(0)
    run.steps(0, num_steps * 4 // 10)
    run.save(num_steps * 3 // 10)
    run.restart("The worker of rank 2 died </script> (SIGKILL).", num_steps * 3 // 10)
    run.steps(num_steps * 3 // 10, num_steps * 6 // 10)
    run.save(num_steps * 5 // 10)
    run.restart("A node was lost.", num_steps * 5 // 10, workers=2)
    run.resize("resized 4 -> 2 workers")
    run.steps(num_steps * 5 // 10, num_steps, spike=num_steps * 8 // 10)
    run.end()
    return run
