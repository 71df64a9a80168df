"""What Ray's errors say about worker processes that ended."""

from __future__ import annotations

import re

from raytrainer.wire.failure_record import WorkerDeaths

MAX_WIDTH = 240
"""Longest text about one death [characters]."""
UNHEARD = "is lost: Ray hears nothing from it any more"
"""Of a node whose machine, raylet or network has failed."""
_NODE_DIED = re.compile(
    r"its node has died\. Node Id: (?P<id>\w{1,6})\w*"
    r"(?:\s*the actor's node was terminated(?P<how> expectedly| unexpectedly)?: (?P<why>[^\n]*))?"
)
_NODE_OF_TASK = re.compile(
    r"node it was running on is dead or unavailable\. Node IP: (\S+), node ID: (\w{1,6})"
)
_UNREACHABLE = re.compile(r"is unavailable: |RPC error|failed to connect to all addresses", re.IGNORECASE)
_WORDLESS = re.compile(r"Worker unexpectedly exits with a connection error code 2\. End of file\.?")
KILLED = "its process was killed or crashed: its connection to Ray ended"
"""Of a process whose connection to Ray ended, which is all that Ray knows."""
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
    text = in_words(text.split(" Some common causes include")[0])
    if (lost := _lost_node(text)) is not None:
        return lost[:MAX_WIDTH]
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


def in_words(text: str) -> str:
    """What Ray says of a process that ended without a word, as a person would."""
    return _WORDLESS.sub(KILLED, text)


def _lost_node(text: str) -> str | None:
    """Which node took a process with it, or could not be reached; None if Ray says neither."""
    ip = re.search(r"\bip: (\S+)", text)
    if died := _NODE_DIED.search(text):
        node = f"its node{f' {ip.group(1)}' if ip else ''} ({died['id']})"
        why = (died["why"] or "").strip()
        if "heartbeats" in why:
            return f"{node} {UNHEARD}"
        what = "was shut down" if died["how"] == " expectedly" else "died"
        return f"{node} {what}{f': {why}' if why else ''}"
    if task := _NODE_OF_TASK.search(text):
        return f"its node {task[1]} ({task[2]}) {UNHEARD}"
    if _UNREACHABLE.search(text):
        at = re.search(r"ipv[46]:(\[?[\da-fA-F.:]+\]?):\d+", text)
        where = f" on {at.group(1)}" if at else ""
        return f"Ray cannot reach its process{where}: the process, its node or the network between has failed"
    return None
