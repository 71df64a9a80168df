"""What driver and workers of one group agree on: tasks, attempts, events, failures, and when it is over.

One place decides, so that all ranks get the same answer: which task is next, that the group closes because nobody
asked for anything, that a failure ends the run. Every method returns at once; "nothing yet" is None, and whoever
waits asks again.

Plain: no Ray, no clock of its own. ``control`` puts it into an actor.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from raytrainer.control.crash_guard import CrashGuard
from raytrainer.runtimes.base import Command
from raytrainer.telemetry.events import CheckpointCommitted, Note, StepDone, TrainStarted
from raytrainer.wire.failure_record import FailureRecord, Verdict
from raytrainer.wire.messages import Answer, Joined, Task, TaskResult

MAX_EVENTS = 20_000
"""Events that are kept for a driver that does not ask; the oldest go first."""


KEPT_TASKS = 4
"""Tasks whose arguments are kept for ranks that are behind."""


class Phase(enum.Enum):
    """Where the life of a group stands."""

    OPEN = "open"
    CLOSED = "closed"
    """No task is given out any more; workers leave."""
    FATAL = "fatal"
    """A failure ended it; workers leave."""


@dataclass(kw_only=True)
class Update:
    """What the driver has not seen yet."""

    events: list[object] = field(default_factory=list)
    next_event: int = 0
    result: TaskResult | None = None
    phase: Phase = Phase.OPEN
    reason: str | None = None
    """Why a failure ended it, when that is not plain from the failure."""
    failures: list[FailureRecord] = field(default_factory=list)
    last_commit: CheckpointCommitted | None = None
    attempt: int = -1


class ControlState:
    """The state of one worker group."""

    def __init__(self, *, max_failures: int, idle_timeout_s: float, clock: Callable[[], float]) -> None:
        self._max_failures = max_failures
        self._idle_timeout_s = idle_timeout_s
        self._clock = clock
        self._guard = CrashGuard()
        self._phase = Phase.OPEN
        self._reason: str | None = None
        self._attempt = -1
        self._tasks: list[Task] = []
        self._result: TaskResult | None = None
        self._task_began_in: int | None = None
        self._first_of_attempt = 0
        self._next_of_rank: dict[int, int] = {}
        self._idle_since: float | None = None
        self._command = Command.NONE
        self._events: deque[object] = deque()
        self._first_event = 0
        self._failures: list[FailureRecord] = []
        self._told_attempts: set[int] = set()
        self._last_commit: CheckpointCommitted | None = None
        self._parked: Any = None
        self._has_left = False

    # ---- the driver's side --------------------------------------------------------------------------------------

    def submit(self, task: Task) -> bool:
        """Give the workers a task. False when the group does not take any more."""
        if self._phase is not Phase.OPEN:
            return False
        self._command = Command.NONE
        self._tasks.append(task)
        if len(self._tasks) > KEPT_TASKS:
            # No rank is that far behind; the arguments may hold a whole dataset.
            self._tasks[-KEPT_TASKS - 1] = replace(self._tasks[-KEPT_TASKS - 1], payload=None)
        self._result = None
        self._idle_since = None
        self._task_began_in = None
        return True

    def update(self, next_event: int) -> Update | None:
        """What is new since event number ``next_event``, or None."""
        start = max(0, next_event - self._first_event)
        events = list(self._events)[start:]
        if not events and self._result is None and self._phase is Phase.OPEN:
            return None
        return self.snapshot(events)

    def snapshot(self, events: Sequence[object] = ()) -> Update:
        """How things stand, whether or not they are new."""
        return Update(
            events=list(events),
            next_event=self._first_event + len(self._events),
            result=self._result,
            phase=self._phase,
            reason=self._reason,
            failures=list(self._failures),
            last_commit=self._last_commit,
            attempt=self._attempt,
        )

    def set_command(self, command: Command) -> None:
        """Ask something of the running task."""
        if not self._is_idle():
            self._command = max(self._command, command)

    def close(self) -> bool:
        """No more tasks. False while one is running."""
        if not self._is_idle():
            return False
        if self._phase is Phase.OPEN:
            self._phase = Phase.CLOSED
        return True

    def abandon(self, reason: str) -> None:
        """End it now, whatever runs."""
        if self._phase is Phase.OPEN:
            self._phase, self._reason = Phase.FATAL, reason

    def parked(self) -> Any:
        """What rank 0 left here, or None."""
        return self._parked

    def is_settled(self) -> bool | None:
        """True unless workers are leaving, and may still leave something here."""
        return None if self._phase is Phase.CLOSED and not self._has_left else True

    # ---- the workers' side --------------------------------------------------------------------------------------

    def join(self) -> Joined:
        """Rank 0, at the start of each attempt."""
        previous, self._attempt = self._attempt, self._attempt + 1
        self._next_of_rank.clear()
        self._first_of_attempt = len(self._tasks) if self._is_idle() else len(self._tasks) - 1
        reason = self._guard.began_attempt()
        if previous >= 0 and self._phase is Phase.OPEN:
            if reason is not None:
                self._end(reason)
            elif previous not in self._told_attempts:
                self._say_restart("A worker died without an exception")
        if self._is_idle():
            self._idle_since = self._clock()
        return Joined(attempt=self._attempt, is_over=self._phase is not Phase.OPEN)

    def next_task(self, rank: int, attempt: int) -> Task | Answer | None:
        """The next task of a rank; every task goes to every rank, in order, until it has a result."""
        if self._phase is not Phase.OPEN or attempt != self._attempt:
            return Answer.LEAVE if self._phase is Phase.CLOSED else Answer.STOP
        index = self._next_of_rank.get(rank, self._first_of_attempt)
        if index < len(self._tasks):
            self._next_of_rank[rank] = index + 1
            if self._task_began_in is None:
                self._task_began_in = attempt
            return replace(self._tasks[index], restarts=attempt - self._task_began_in)
        # One place and one moment: after this, every rank is told to leave and the driver's next task is refused.
        if self._idle_left_s() == 0:
            self._phase = Phase.CLOSED
            return Answer.LEAVE
        return None

    def idle_left_s(self) -> float | None:
        """Seconds until the group closes for lack of tasks; None while a task runs."""
        return self._idle_left_s()

    def finish(self, result: TaskResult) -> None:
        """Rank 0: a task has its result, and is never run again."""
        if not self._tasks or result.task_id != self._tasks[-1].task_id or self._result is not None:
            return
        self._result = result
        self._guard.finished_task()
        self._idle_since = self._clock()
        self._command = Command.NONE

    def push(self, attempt: int, events: Sequence[object]) -> None:
        """Events of a rank, in order."""
        if attempt != self._attempt:
            return  # From a worker that is being replaced: its progress is not that of the run any more.
        for event in events:
            self._learn_from(event)
            self._add_event(event)

    def fail(self, record: FailureRecord) -> Answer:
        """A rank failed: is the run over, or are the workers started again?"""
        self._failures.append(record)
        if self._phase is not Phase.OPEN or record.attempt != self._attempt:
            return Answer.STOP if self._phase is not Phase.OPEN else Answer.RETRY
        if record.verdict is Verdict.COLLATERAL:
            return Answer.RETRY
        if record.verdict is Verdict.DETERMINISTIC:
            self._end(None)
            return Answer.STOP
        reason = self._guard.failed(record.type_name, record.step)
        if reason is None and 0 <= self._max_failures <= record.attempt:
            reason = (
                f"max_failures={self._max_failures} allows no further restart" if self._max_failures else ""
            )
        if reason is not None:
            self._end(reason or None)
            return Answer.STOP
        step = f" after step {record.step}" if record.step is not None else ""
        first_line = (record.message.splitlines() or [""])[0][:160]
        self._say_restart(f"Rank {record.rank} failed{step} ({record.type_name}: {first_line})")
        return Answer.RETRY

    def command(self, known: Command) -> Command | None:
        """What the driver asks for, if it is not what the rank knows already."""
        return self._command if self._command != known else None

    def is_over(self, attempt: int) -> bool | None:
        """True when an attempt's ranks must end, even those that are stuck."""
        return True if self._phase is Phase.FATAL or attempt != self._attempt else None

    def park(self, value: Any) -> None:
        """Rank 0: leave something for the driver."""
        self._parked = value

    def leave(self) -> None:
        """Rank 0: nothing more will be left here."""
        self._has_left = True

    # ---- inside -------------------------------------------------------------------------------------------------

    def _is_idle(self) -> bool:
        return not self._tasks or self._result is not None

    def _idle_left_s(self) -> float | None:
        if self._idle_since is None or not self._is_idle():
            return None
        return max(0.0, self._idle_timeout_s - (self._clock() - self._idle_since))

    def _end(self, reason: str | None) -> None:
        self._phase, self._reason = Phase.FATAL, reason

    def _say_restart(self, what: str) -> None:
        self._told_attempts.add(self._attempt)
        limit = f" of at most {self._max_failures}" if self._max_failures >= 0 else ""
        number = self._attempt + 1 if what.startswith("Rank") else self._attempt
        self._add_event(
            Note(text=f"{what}. Starting the workers again (restart {number}{limit}).", level="warning")
        )

    def _learn_from(self, event: object) -> None:
        if isinstance(event, StepDone):
            self._guard.did_step(event.step)
        elif isinstance(event, TrainStarted):
            self._guard.began_training(event.first_step)
        elif isinstance(event, CheckpointCommitted):
            self._guard.committed()
            self._last_commit = event

    def _add_event(self, event: object) -> None:
        self._events.append(event)
        if len(self._events) > MAX_EVENTS:
            self._events.popleft()
            self._first_event += 1
