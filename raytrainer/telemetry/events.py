"""Which events a worker sends to the driver while a task runs.

Events are small frozen records of plain values. Rank 0 emits them through its runtime; the driver's console renders
them. They hold no tensors and no references to the trainer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """An event that says when it happened, by the clock of the machine where it did."""

    at: float = field(default_factory=time.time, compare=False, repr=False)
    """[s since the epoch]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A part of something that took time."""

    name: str
    began: float
    """[s since the epoch]"""
    ended: float
    """[s since the epoch]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngagedRow:
    """One line of the table that holds what was requested against what is engaged."""

    what: str
    requested: str
    engaged: str
    ok: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitBegun:
    """The driver begins something that shows no progress of its own: it starts workers, or starts them again."""

    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainStarted(Timed):
    """Training is about to take its first step in this attempt."""

    max_steps: int
    first_step: int
    """Steps that an earlier attempt or run has done."""
    num_epochs: int
    attempt: int
    rows: list[EngagedRow]
    num_workers: int = 1
    resumed_from: str | None = None
    arguments: dict[str, object] = field(default_factory=dict[str, object])
    """As they were asked for; tokens are masked."""
    phases: list[Phase] = field(default_factory=list[Phase])
    """What the process of rank 0 has gone through since it was made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy(Timed):
    """Rank 0 begins what may take longer than a step: its set-up, an evaluation, a prediction or a save."""

    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDone:
    """An optimizer step is done (emitted at most a few times a second)."""

    step: int
    max_steps: int
    epoch: float
    samples_per_s: list[float]
    """Throughput of each rank since the last event [samples/s]; empty when unknown."""
    eta_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged(Timed):
    """`Trainer.log` was called on rank 0."""

    step: int
    max_steps: int
    logs: dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionStep:
    """A batch of an evaluation or prediction is done."""

    description: str
    done: int
    total: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionDone(Timed):
    """An evaluation or prediction loop ended."""

    description: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """Training has evaluated, and what belongs to that step (its save too) is done."""

    step: int
    epoch: float
    metrics: dict[str, float]
    max_steps: int
    checkpoint: str | None
    """The newest checkpoint that this run has committed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointCommitted(Timed):
    """A checkpoint is complete in storage."""

    step: int
    path: str
    num_bytes: int
    seconds: float
    """From the beginning of the save to the commit [s]."""
    waited_s: float | None = None
    """How long training waited for a save that was written beside it [s]; None: all the time."""
    phases: list[Phase] = field(default_factory=list[Phase])
    """Of what it consisted on rank 0: "staging", "writing", "hashing", "upload", "commit"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Note(Timed):
    """One sentence that the user should see."""

    text: str
    level: str = "info"
    """"info" or "warning"."""
    kind: str = ""
    """What happened, where a record names it: "restart", "move" or "resize"; else empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainEnded(Timed):
    """The training task is over on rank 0."""

    step: int
    metrics: dict[str, object] = field(default_factory=dict[str, object])
    places: dict[str, str] = field(default_factory=dict[str, str])
    """Label -> path (checkpoints, best model, logs)."""
    interrupted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainFailed(Timed):
    """An exception ended the training task on rank 0."""

    type_name: str
    text: str
    interrupted: bool = False
    """Somebody asked the process to end."""
