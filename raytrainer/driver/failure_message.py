"""What a person reads when a run has failed: the cause first, on one screen.

The message leads with the user's own exception and frames. Then it says where and when the run failed, why it was not
restarted, which checkpoint is the last one, and where to read more.
"""

from __future__ import annotations

import logging
import pickle
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from raytrainer.control.failure_kinds import timed_out
from raytrainer.control.failure_policy import root_cause
from raytrainer.driver.failure_class import failed_by
from raytrainer.driver.missing_module import missing_module_hint
from raytrainer.driver.ray_deaths import deaths_in
from raytrainer.errors import TrainingFailed
from raytrainer.wire.failure_record import FailureRecord

logger = logging.getLogger(__name__)

MAX_LINES = 30
"""Of the whole message."""
MAX_WIDTH = 1000
"""Of one line; of a longer one the middle is left out, because what to do often stands at the end."""
_NOTE_WIDTH = 240
_MAX_MESSAGE = 8
"""Of the exception's own text [lines]."""
_MAX_NOTE = 3
"""Of one of its notes [lines]."""

_MEMORY = (
    "if memory ran out, lower per_device_train_batch_size (raise gradient_accumulation_steps by the same factor) or "
    "give workers more memory"
)
"""Also where a worker died without a word: the kernel, which kills for lack of memory, leaves none."""

HINTS: tuple[tuple[str, str], ...] = (
    (
        r"its node .*(is lost|died|was shut down)|cannot reach its process",
        "look at that machine (power, memory, the spot market) and its network; with num_workers=(min, max) a run goes "
        "on with the nodes that are left",
    ),
    (
        r"out of memory|outofmemory|\boom\b|exit code 137|\bsigkill\b|memory usage threshold|low on memory|"
        r"cannot allocate memory",
        _MEMORY,
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
        r"unauthorized|authentication token",
        "the cluster wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN",
    ),
)
"""What an error looks like, and the one thing to try first."""


@dataclass(kw_only=True)
class Failure:
    """All that is known of a run's failure."""

    records: Sequence[FailureRecord]
    """Exceptions of the ranks in the last attempt."""
    deaths: dict[int, str] = field(default_factory=dict[int, str])
    """Rank -> how its process ended, in Ray's words."""
    event: str | None = None
    """What ended the run, if it was neither an exception nor the death of a worker."""
    method: str = "train"
    reason: str | None = None
    """Why the workers were not started again."""
    fit_error: BaseException | None = None
    """What Ray Train raised."""
    last_checkpoint: str | None = None
    log_dir: str | None = None
    num_attempts: int = 1


def training_failed(failure: Failure) -> TrainingFailed:
    """The exception to raise on the driver, of the original one's class where that could be brought here."""
    root = root_cause(failure.records)
    failure.deaths = failure.deaths or deaths_in(failure.fit_error).causes
    return failed_by(describe(failure, root), original(root))


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


def describe(failure: Failure, root: FailureRecord | None) -> str:
    """The message, at most ``MAX_LINES`` lines."""
    lines = _lead(failure, root)
    facts = _facts(failure, root)
    room = MAX_LINES - len(facts)
    if len(lines) > room:
        lines = [*lines[: room - 1], "  ... (the log file has all of it)"]
    return "\n".join(map(_fitted, lines + facts))


def _fitted(line: str) -> str:
    if len(line) <= MAX_WIDTH:
        return line
    half = MAX_WIDTH // 2 - 3
    return f"{line[:half]} ... {line[-half:]}"


def _lead(failure: Failure, root: FailureRecord | None) -> list[str]:
    if failure.event is not None:
        return [failure.event]
    if root is not None:
        lines = _shortened(f"{root.type_name}: {root.message}".rstrip().splitlines())
        for note in root.notes:
            lines += textwrap.wrap(note, _NOTE_WIDTH)[:_MAX_NOTE]
        return lines + (root.user_frames.splitlines() if root.user_frames else [])
    if failure.deaths:
        rank, text = min(failure.deaths.items())
        return [f"The worker of rank {rank} died without an exception: {text}"]
    if waited_in_vain := timed_out(failure.records):
        return [f"{waited_in_vain}, and none of their processes ended."]
    if failure.records:
        record = min(failure.records, key=lambda record: record.time)
        return [
            f"A worker died without an exception; rank {record.rank} lost its connection to it "
            f"({record.type_name}: {record.first_line})"
        ]
    if failure.fit_error is not None:
        text = str(failure.fit_error).strip().splitlines() or [""]
        return [f"{type(failure.fit_error).__name__}: {text[0]}", *text[1:8]]
    return [failure.reason or "The workers ended without a result and without an error."]


def _shortened(lines: list[str]) -> list[str]:
    """The beginning and the end of a long message: one from a loading process ends with the error itself."""
    if len(lines) <= _MAX_MESSAGE:
        return lines
    return [*lines[:2], "  ...", *lines[-(_MAX_MESSAGE - 3) :]]


def _facts(failure: Failure, root: FailureRecord | None) -> list[str]:
    lines = [""]
    if root is not None:
        place = f"in {root.method}()" if root.method is not None else "while the worker was set up"
        step = f"after step {root.step}" if root.step is not None else "before the first step"
        lines.append(
            f"where: rank {root.rank} on {root.node} (pid {root.pid}), {place}, {step}, attempt {failure.num_attempts}"
        )
    else:
        lines.append(f"where: in {failure.method}(), attempt {failure.num_attempts}")
    reason = failure.reason or "Ray Train did not start the workers again"
    lines.append(f"why it ended: {reason}")
    lines.append(f"last committed checkpoint: {failure.last_checkpoint or 'none in this run'}")
    log = root.log_file if root is not None else None
    if log or failure.log_dir:
        lines.append(f"log: {log or failure.log_dir}")
    lines.extend(_echoes(failure, root))
    hint = _hint(failure, root)
    if hint:
        lines.append(f"hint: {hint}")
    return lines


def _echoes(failure: Failure, root: FailureRecord | None) -> list[str]:
    if root is None:
        return []
    others: dict[int, str] = {}
    for record in failure.records:
        if record.rank != root.rank:
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
        text = " ".join([f"{root.type_name}: {root.message}", *root.notes])
    else:
        text = " ".join([*failure.deaths.values(), str(failure.fit_error or ""), failure.event or ""])
    if (hint := missing_module_hint(text, root.node if root is not None else None)) is not None:
        return hint
    for pattern, hint in HINTS:
        if re.search(pattern, text, re.IGNORECASE):
            return hint
    return _MEMORY if root is None and failure.deaths else None
