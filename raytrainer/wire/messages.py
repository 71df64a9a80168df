"""What workers, driver and control actor say to each other: small records of plain values.

This file imports nothing heavy, because the control actor's process starts with it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raytrainer.wire.pickling import Shipped


class Answer(enum.Enum):
    """What a rank does next, other than a task."""

    LEAVE = "leave"
    """The group closes: leave the trained weights with the control actor, then return."""
    STOP = "stop"
    """The run has ended, or another attempt has begun: return at once."""
    RETRY = "retry"
    """Raise, so that Ray starts the workers again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankProcess:
    """The process of a rank."""

    rank: int
    pid: int
    started: float
    """When it began [s since the epoch]: its number may be given to another one later."""
    host: str
    node_id: str
    """Ray's id of its node."""
    log_file: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the training thread of a rank is."""

    rank: int
    collective: str | None
    """What it waits for the other ranks in; None if it does something else."""
    at: str
    """File, line and function."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """What the ranks answered when they were asked where they are."""

    places: list[Place]
    """Of those that answered, in order of ranks."""
    silent: list[RankProcess]
    """The others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What is asked of a rank beside its task."""

    is_over: bool = False
    """It must end, even if it is stuck."""
    request: int = 0
    """Number of the last request to say where it is; 0 for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """The answer to a rank 0 that begins an attempt."""

    attempt: int
    """0 for the first start of the workers."""
    is_over: bool
    """The run has ended: return at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What has changed on the trainer since it was sent."""

    version: int
    """Of the trainer with this change; workers that have it, or a later one, need not apply it."""
    parts: list[Any]
    """One reference to parts of the trainer, each in transport form; in a list, so that Ray passes it on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextTrainer:
    """The trainer that workers set up in place of the one that they began with."""

    number: int
    """Counts them; the one that workers began with has 0."""
    shipped: list[Any]
    """One reference to it in transport form; in a list, so that Ray passes the reference on."""
    output_dir: str | None
    """Where workers write their logs from then on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One call of a method of the trainer, for all ranks."""

    task_id: str
    method: str
    payload: list[Any] | None
    """One reference to ``(args, kwargs, context)`` in transport form; in a list, so that Ray passes the reference on.
    None when no rank can need it any more."""
    restarts: int = 0
    """How often the workers were started again since the task began."""
    num_failures: int = 0
    """How many restarts it had used of ``max_failures`` when this group was given it."""
    version: int = 0
    """Of the trainer that the task is for; when it is done, it has made the next one."""
    changes: list[Change] = field(default_factory=list[Change])
    """What makes the trainer of that version out of the one that was sent at first, in order."""
    is_decided_by_driver: bool = False
    """The driver decides after each evaluation whether training goes on."""
    trainer: NextTrainer | None = None
    """The trainer to run it on; None for the one that the workers began with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """What rank 0 returned."""

    task_id: str
    payload: Shipped
    """The value in transport form."""
