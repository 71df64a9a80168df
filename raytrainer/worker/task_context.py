"""What a driver tells the workers about a task, apart from its arguments."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskContext:
    """Which call of the driver a task belongs to, and what the same workers trained before it."""

    run_id: str
    """Names the ``train()`` call, over all of its attempts."""
    trained_run_id: str | None = None
    """The run that the same workers completed before; a restarted worker needs its weights."""
    trained_step: int = 0
    """The step at which it ended."""
    best_checkpoint: str | None = None
    """The checkpoint whose weights it ended with, if it loaded the best one."""
