"""Whether a failure ends the run or the workers are started again. Nothing else decides that.

In this order:

1. An echo of another rank's failure decides nothing.
2. An error that would come back ends the run at once.
3. So does the same type of exception at the same step in two attempts in a row, and so do three attempts in a row that
   begin at the same step, commit no checkpoint, and die without an exception (a kill for lack of memory, a crash in
   native code).
4. Otherwise the workers are started again, ``max_failures`` times for each call of the driver. A preemption is not
   counted: nothing failed. Neither are workers that left because they were asked to move, of which nobody asks here.

Progress is what counts in rule 3: with ``max_failures=-1``, a run that loses a worker every hour and commits in between
may go on for ever.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from raytrainer.control.failure_history import History
from raytrainer.control.failure_kinds import FailureKind, kind_of
from raytrainer.wire.failure_record import FailureRecord, WorkerDeaths

SILENT_DEATHS = 3
"""Attempts in a row that die without an exception, from the same step, without a commit."""


class Action(enum.Enum):
    """What follows from a failure."""

    RESTART = "restart"
    """Start the workers again."""
    END = "end"
    """End the run."""
    WAIT = "wait"
    """Nothing yet: the failure of another rank, which this one echoes, decides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What follows from a failure, and why."""

    action: Action
    reason: str | None = None
    """Why the run ends."""


def decide(record: FailureRecord | WorkerDeaths, history: History) -> Decision:
    """Decide what follows from a failure.

    Args:
        record: What failed in the last attempt of ``history``.
        history: What happened before in the same call.
    """
    if isinstance(record, WorkerDeaths):
        if record.was_preempted:
            return Decision(action=Action.RESTART)
        loop = _silent_deaths(history)
    else:
        kind = kind_of(record)
        if kind is FailureKind.COLLATERAL:
            return Decision(action=Action.WAIT)
        if kind is FailureKind.DETERMINISTIC:
            return _end("the same would happen again, so the workers were not started again")
        loop = _repeated_exception(record, history)
    if loop is not None:
        return _end(loop)
    if 0 <= history.max_failures <= history.num_restarts:
        further = "further " if history.max_failures else ""
        return _end(f"max_failures={history.max_failures} allows no {further}restart")
    return Decision(action=Action.RESTART)


def root_cause(records: Iterable[FailureRecord]) -> FailureRecord | None:
    """The earliest exception of an attempt that is not an echo; None when there are only echoes."""
    causes = [record for record in records if kind_of(record) is not FailureKind.COLLATERAL]
    return min(causes, key=lambda record: record.time, default=None)


def _end(reason: str) -> Decision:
    return Decision(action=Action.END, reason=reason)


def _repeated_exception(record: FailureRecord, history: History) -> str | None:
    if len(history.attempts) < 2:
        return None
    before = history.attempts[-2].exceptions
    if all((one.type_name, one.step) != (record.type_name, record.step) for one in before):
        return None
    where = f"at step {record.step}" if record.step is not None else "before the first step"
    return f"{record.type_name} {where} came back after a restart"


def _silent_deaths(history: History) -> str | None:
    recent = list(history.attempts)[-SILENT_DEATHS:]
    first_step = recent[-1].first_step if recent else None
    is_loop = len(recent) == SILENT_DEATHS and all(
        attempt.ended_silently and attempt.first_step == first_step for attempt in recent
    )
    if not is_loop:
        return None
    where = f"from step {first_step}" if first_step is not None else "before training began"
    return (
        f"workers died {SILENT_DEATHS} times in a row without an exception, each time starting {where} and without a "
        "new checkpoint in between"
    )
