"""What a worker and the control actor say to each other: small records of plain values.

This file imports nothing heavy: the control actor's process starts with it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class Answer(enum.Enum):
    """What a rank is to do next, other than a task."""

    LEAVE = "leave"
    """The group closes: hand over what is worth keeping, then return."""
    STOP = "stop"
    """It is over, or another attempt has begun: return at once."""
    RETRY = "retry"
    """Raise, so that Ray starts the workers again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """The answer to a rank 0 that begins an attempt."""

    attempt: int
    """0 for the first start of the workers."""
    is_over: bool
    """The run has ended: return at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One call on the bound trainer, for all ranks."""

    task_id: str
    method: str
    payload: Any
    """``(args, kwargs, context)`` in transport form, or a reference to it."""
    restarts: int = 0
    """How often the workers were started again since the task began."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """What rank 0 returned."""

    task_id: str
    payload: Any
    """The value in transport form."""
