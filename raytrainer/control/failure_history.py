"""What happened in the attempts of one call, as far as the failure policy needs it.

A history begins with each call of the driver and with each result, so that a second ``train()`` on the same workers
may use all of its restarts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from raytrainer.control.failure_kinds import FailureKind, kind_of
from raytrainer.wire.failure_record import FailureRecord, WorkerDeaths

KEPT_ATTEMPTS = 3
"""The policy looks no further back."""


@dataclass(kw_only=True)
class Attempt:
    """One start of the workers."""

    first_step: int | None = None
    """Optimizer steps that were done when training began in it; None if it did not get there."""
    num_commits: int = 0
    """Checkpoints that became complete in it."""
    exceptions: list[FailureRecord] = field(default_factory=list[FailureRecord])
    """Those of its ranks, without echoes of other ranks' failures."""
    deaths: WorkerDeaths | None = None
    has_moved: bool = False
    """Its ranks saved and left, to go on in other workers."""

    @property
    def was_preempted(self) -> bool:
        """It ended because a node was taken away."""
        return self.deaths is not None and self.deaths.was_preempted

    @property
    def is_failure(self) -> bool:
        """It counts, once it has ended without a result."""
        return not self.was_preempted and not self.has_moved

    @property
    def ended_silently(self) -> bool:
        """It failed without an exception that explains it, and without a checkpoint."""
        return not self.exceptions and not self.num_commits and self.is_failure


class History:
    """The attempts of one call, oldest first; the last one is running or has just failed.

    Args:
        max_failures: Restarts that the call may use; -1 for no limit.
        num_restarts: Those that it used in an earlier group of workers.
    """

    def __init__(self, *, max_failures: int, num_restarts: int = 0) -> None:
        self.max_failures = max_failures
        self.num_restarts = num_restarts
        """Restarts that the call has used. Those after a preemption or a move do not count."""
        self.num_attempts = 0
        """Starts of the workers that the call has seen, preempted ones included."""
        self.attempts: deque[Attempt] = deque(maxlen=KEPT_ATTEMPTS)

    def begin_attempt(self) -> None:
        """The workers start, or start again because the last attempt failed."""
        if self.attempts and self.attempts[-1].is_failure:
            self.num_restarts += 1
        self.attempts.append(Attempt())
        self.num_attempts += 1

    def begin_training(self, first_step: int) -> None:
        """Training is about to take its first step in this attempt."""
        if self.attempts:
            self.attempts[-1].first_step = first_step

    def add_commit(self) -> None:
        """A checkpoint is complete."""
        if self.attempts:
            self.attempts[-1].num_commits += 1

    def add_move(self) -> None:
        """The ranks of this attempt have left, to go on in other workers."""
        if self.attempts:
            self.attempts[-1].has_moved = True

    def add_failure(self, record: FailureRecord | WorkerDeaths) -> None:
        """The policy has seen a failure of this attempt."""
        if not self.attempts:
            return
        if isinstance(record, WorkerDeaths):
            self.attempts[-1].deaths = record
        elif kind_of(record) is not FailureKind.COLLATERAL:
            self.attempts[-1].exceptions.append(record)
