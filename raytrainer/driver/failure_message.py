"""What a person reads when a run has failed: the cause first, on one screen.

Of several failures the cause is the earliest that is not the echo of another one. The message leads with the user's
own exception and frames, then says where and when it happened, what is saved, and where to read more.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raytrainer.errors import TrainingFailed
from raytrainer.wire.failure_record import FailureRecord, Verdict

logger = logging.getLogger(__name__)

MAX_LINES = 30
"""Of the whole message."""
MAX_WIDTH = 240
"""Of one line."""

HINTS: tuple[tuple[str, str], ...] = (
    (
        r"out of memory|oom|exit code 137|sigkill|memory usage threshold|cannot allocate memory",
        "if memory ran out, lower per_device_train_batch_size (raise gradient_accumulation_steps by the same factor) "
        "or give workers more memory",
    ),
    (
        r"nccl.*(timeout|timed out)|watchdog.*(timeout|timed out)|timed out waiting \d+ms",
        "a rank did not come to a collective in time: look at the other ranks' logs; ddp_timeout= sets the limit",
    ),
    (
        r"address already in use|eaddrinuse",
        "another process holds the port; start again, Ray picks a new one",
    ),
    (
        r"cannot be sent|can't pickle|cannot pickle|picklingerror",
        "values that cross processes must be picklable; return plain values, arrays or tensors",
    ),
    (
        r"no space left|disk quota|read-only file system|permission denied|stale file handle",
        "check the storage under output_dir; save_total_limit= keeps fewer checkpoints",
    ),
    (
        r"no module named|modulenotfounderror",
        "install the package on the workers' nodes, or ship your code with `ray job submit --working-dir .`",
    ),
    (
        r"unauthorized|authentication token",
        "the cluster wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN",
    ),
)
"""What an error looks like, and the one thing to try first."""


@dataclass(kw_only=True)
class Failure:
    """All that is known of a run's failure."""

    records: Sequence[FailureRecord]
    method: str = "train"
    reason: str | None = None
    """Why workers were not started again, when the record alone does not say."""
    fit_error: BaseException | None = None
    """What Ray says, for workers that died without a word."""
    last_checkpoint: str | None = None
    log_dir: str | None = None
    max_failures: int = 0
    num_attempts: int = 1
    deaths: dict[int, str] = field(default_factory=dict)
    """Rank -> how its process ended, from Ray."""


def training_failed(failure: Failure) -> TrainingFailed:
    """The exception to raise on the driver, with the original one as its cause where it could be brought here."""
    root = root_cause(failure.records)
    failure.deaths = failure.deaths or deaths_of(failure.fit_error)
    error = TrainingFailed(describe(failure, root))
    error.__cause__ = original(root)
    error.__suppress_context__ = True
    return error


def root_cause(records: Iterable[FailureRecord]) -> FailureRecord | None:
    """The earliest failure of the last attempt that is not an echo; None when there are only echoes."""
    real = [record for record in records if record.verdict is not Verdict.COLLATERAL]
    if not real:
        return None
    last = max(record.attempt for record in real)
    return min((record for record in real if record.attempt == last), key=lambda record: record.time)


def original(root: FailureRecord | None) -> BaseException | None:
    """The user's exception, if it can be rebuilt here."""
    if root is None or root.pickled is None:
        return None
    try:
        error = pickle.loads(root.pickled)  # noqa: S301  written by our own worker
    except Exception:
        logger.debug("Could not rebuild the exception of rank %d.", root.rank, exc_info=True)
        return None
    return error if isinstance(error, BaseException) else None


def deaths_of(fit_error: BaseException | None) -> dict[int, str]:
    """How each dead worker ended, in Ray's words, shortened."""
    failures: dict[int, Any] = getattr(fit_error, "worker_failures", None) or {}
    deaths = {}
    for rank, failure in failures.items():
        error = getattr(failure, "health_check_failure", failure)
        if any(part in type(error).__name__ for part in ("Actor", "Died", "Crash", "HealthCheck")):
            deaths[rank] = _death_text(str(error))
    return deaths


def describe(failure: Failure, root: FailureRecord | None) -> str:
    """The message, at most ``MAX_LINES`` lines."""
    lines = _lead(failure, root)
    facts = _facts(failure, root)
    room = MAX_LINES - len(facts)
    if len(lines) > room:
        lines = [*lines[: room - 1], "  ... (the log file has all of it)"]
    return "\n".join(line[:MAX_WIDTH] for line in lines + facts)


def _lead(failure: Failure, root: FailureRecord | None) -> list[str]:
    if root is not None:
        lines = f"{root.type_name}: {root.message}".rstrip().splitlines()[:8]
        return lines + (root.user_frames.splitlines() if root.user_frames else [])
    if failure.deaths:
        rank, text = min(failure.deaths.items())
        return [f"The worker of rank {rank} died without an exception: {text}"]
    if failure.records:
        record = min(failure.records, key=lambda record: record.time)
        first_line = (record.message.splitlines() or [""])[0]
        return [
            f"A worker died without an exception; rank {record.rank} lost it ({record.type_name}: {first_line})"
        ]
    if failure.fit_error is not None:
        text = str(failure.fit_error).strip().splitlines() or [""]
        return [f"{type(failure.fit_error).__name__}: {text[0]}", *text[1:8]]
    return [failure.reason or "The workers ended without a result and without an error."]


def _facts(failure: Failure, root: FailureRecord | None) -> list[str]:
    lines = [""]
    if root is not None:
        step = f"after step {root.step}" if root.step is not None else "before the first step"
        lines.append(
            f"where: rank {root.rank} on {root.node} (pid {root.pid}), in {root.method or 'the set-up'}(), {step}, "
            f"attempt {root.attempt + 1}"
        )
    else:
        lines.append(f"where: in {failure.method}(), attempt {failure.num_attempts}")
    lines.append(f"why it ended: {_why(failure, root)}")
    lines.append(f"last committed checkpoint: {failure.last_checkpoint or 'none in this run'}")
    log = root.log_file if root is not None else None
    if log or failure.log_dir:
        lines.append(f"log: {log or failure.log_dir}")
    lines.extend(_echoes(failure, root))
    hint = _hint(failure, root)
    if hint:
        lines.append(f"hint: {hint}")
    return lines


def _why(failure: Failure, root: FailureRecord | None) -> str:
    if failure.reason:
        return failure.reason
    if root is not None and root.verdict is Verdict.DETERMINISTIC:
        return "the same would happen again, so the workers were not started again"
    if failure.max_failures == 0:
        return "max_failures=0 allows no restart"
    if failure.max_failures > 0:
        return f"max_failures={failure.max_failures} allows no further restart"
    return "Ray gave up"


def _echoes(failure: Failure, root: FailureRecord | None) -> list[str]:
    if root is None:
        return []
    others: dict[int, str] = {}
    for record in failure.records:
        if record.rank != root.rank and record.attempt == root.attempt:
            others.setdefault(record.rank, record.type_name)
    for rank in failure.deaths:
        others.setdefault(rank, "died")
    others.pop(root.rank, None)
    if not others:
        return []
    shown = ", ".join(f"{rank} ({name})" for rank, name in sorted(others.items())[:6])
    more = f" and {len(others) - 6} more" if len(others) > 6 else ""
    return [f"failed as a consequence: rank {shown}{more}"]


def _hint(failure: Failure, root: FailureRecord | None) -> str | None:
    if root is not None:
        text = f"{root.type_name}: {root.message}"
    else:
        text = " ".join([*failure.deaths.values(), str(failure.fit_error or "")])
    for pattern, hint in HINTS:
        if re.search(pattern, text, re.IGNORECASE):
            return hint
    return None


def _death_text(text: str) -> str:
    """The sentence in Ray's report that says how the process ended."""
    for pattern in (
        r"Worker exit detail: (.+)",
        r"worker exit detail: (.+)",
        r"(The node (?:was|has) .+)",
        r"(Task was killed due to the node running low on memory.*)",
        r"(.*exit code.*)",
    ):
        found = re.search(pattern, text)
        if found:
            return found.group(1).strip()[:MAX_WIDTH]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else "unknown cause")[:MAX_WIDTH]
