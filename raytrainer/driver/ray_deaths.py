"""What Ray's errors say about worker processes that ended."""

from __future__ import annotations

import re

from raytrainer.wire.failure_record import WorkerDeaths

MAX_WIDTH = 240
"""Longest text about one death [characters]."""
_NAMES = ("Actor", "Died", "Crash", "HealthCheck", "OutOfMemory")
"""Parts of names of Ray's errors for a process that ended; the last one is for what Ray's memory monitor killed."""


def deaths_in(error: BaseException | None) -> WorkerDeaths:
    """The processes that ended according to a ``WorkerGroupError`` of Ray Train; none for any other error."""
    failures: dict[int, object] = getattr(error, "worker_failures", None) or {}
    causes: dict[int, str] = {}
    was_preempted = False
    for rank, failure in failures.items():
        death: object = getattr(failure, "health_check_failure", failure)
        if any(part in type(death).__name__ for part in _NAMES):
            causes[rank] = cause_in(str(death))
            was_preempted |= bool(getattr(death, "preempted", False))
    return WorkerDeaths(causes=causes, was_preempted=was_preempted)


def cause_in(text: str) -> str:
    """The sentence in Ray's report that says how a process ended, without Ray's guesses about why."""
    text = text.split(" Some common causes include")[0]
    for pattern in (
        r"[Ww]orker exit detail: (.+)",
        r"(The node (?:was|has) .+)",
        r"((?:Task was|\d+ worker\(s\) were) killed due to the node running low on memory.*)",
        r"(.*exit code.*)",
    ):
        found = re.search(pattern, text)
        if found:
            return found.group(1).strip()[:MAX_WIDTH]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else "unknown cause")[:MAX_WIDTH]
