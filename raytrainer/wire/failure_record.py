"""What is known of a failure: an exception of a rank, or the end of worker processes, as plain values.

Records only state facts. What follows from them is decided by ``control.failure_policy``.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """The exception of one rank."""

    rank: int
    node: str
    pid: int
    attempt: int | None
    """Start of the workers that it belongs to, 0 for the first; None if the rank failed before it had a number."""
    step: int | None
    """Optimizer steps that were done, if the task counts steps."""
    method: str | None
    """Method of the trainer that was running; None while the worker was being set up."""
    type_name: str
    """Qualified name of the exception's class."""
    base_names: tuple[str, ...]
    """Bare names of that class and of all its bases."""
    message: str
    """The exception's own text."""
    notes: tuple[str, ...]
    """Notes that were added to the exception, and what was being handled when it was raised."""
    user_frames: str
    """The traceback from the user's code on."""
    pickled: bytes | None
    """The exception, if it survives a pickle."""
    log_file: str | None
    time: float
    """When it was recorded [s since the epoch]."""

    @property
    def first_line(self) -> str:
        """The first line of the message."""
        return (self.message.splitlines() or [""])[0]


@dataclass(frozen=True, kw_only=True)
class WorkerDeaths:
    """Worker processes that ended without an exception."""

    causes: dict[int, str]
    """Rank -> how its process ended, in Ray's words; empty when Ray did not say which."""
    was_preempted: bool = False
    """A node was taken away; nothing failed."""
    hang: str | None = None
    """How the ranks stood still, if they were ended because of that."""


def record_failure(
    error: BaseException,
    *,
    rank: int,
    attempt: int | None,
    step: int | None,
    method: str | None,
    log_file: str | None,
) -> FailureRecord:
    """Record an exception of this process, now.

    Args:
        error: The exception.
        rank: Of this process.
        attempt: Start of the workers, 0 for the first; None if it has no number yet.
        step: Optimizer steps that were done, if the task counts steps.
        method: Method of the trainer that was running, if one was.
        log_file: Where this rank logs.
    """
    return FailureRecord(
        rank=rank,
        node=socket.gethostname(),
        pid=os.getpid(),
        attempt=attempt,
        step=step,
        method=method,
        type_name=_name_of(type(error)),
        base_names=tuple(base.__name__ for base in type(error).__mro__),
        message=_message_of(error),
        notes=_notes_of(error),
        user_frames=user_frames(error),
        pickled=_pickled(error),
        log_file=log_file,
        time=time.time(),
    )


def _name_of(kind: type) -> str:
    return (
        kind.__qualname__
        if kind.__module__ in ("builtins", "__main__")
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _message_of(error: BaseException) -> str:
    if type(error).__str__ is KeyError.__str__ and error.args:
        return repr(error.args[0])
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001  an exception whose text raises is still to be reported
        return f"<its text raises {type(failure).__name__}>"


def _notes_of(error: BaseException) -> tuple[str, ...]:
    notes = [str(note) for note in getattr(error, "__notes__", [])]
    origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if origin is not None:
        notes.append(f"(while handling {_name_of(type(origin))}: {_message_of(origin).strip()[:200]})")
    return tuple(notes)


def _pickled(error: BaseException) -> bytes | None:
    kind = type(error)
    for one in (
        error,
        _Remade(kind, error.args, vars(error)),  # where pickle cannot call the constructor
        _Remade(kind, (_message_of(error),), {}),  # where it refers to what cannot be pickled
    ):
        try:
            data: bytes = cloudpickle.dumps(one)
            pickle.loads(data)  # noqa: S301  made one line above; many exceptions fail only here
        except Exception:  # noqa: BLE001  then the driver shows its text
            continue
        return data
    return None


@dataclass(frozen=True)
class _Remade:
    """Unpickled, it is an exception that was made without its constructor."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    attributes: dict[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (self.kind, self.args, self.attributes)


def _remake(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(attributes)
    return error


_MAX_FRAMES = 8
_PLUMBING = (
    "torch/nn/modules/module.py",
    "torch/utils/_contextlib.py",
    "torch/nn/parallel/distributed.py",
    "concurrent/futures/",
    "importlib/__init__.py",
    "<frozen ",
)


def user_frames(error: BaseException) -> str:
    """The traceback from the user's code on. Frames below it, ours and Ray's, say nothing about the error."""
    frames = traceback.extract_tb(error.__traceback__)
    start = next((i for i, frame in enumerate(frames) if not _is_ours(frame.filename)), None)
    if start is None:
        shown = list(frames[-2:])
    else:
        shown = [frame for frame in frames[start:] if not _is_plumbing(frame.filename)]
    skipped = len(shown) - _MAX_FRAMES
    lines = traceback.format_list(shown[:3] + shown[-(_MAX_FRAMES - 3) :] if skipped > 0 else shown)
    if skipped > 0:
        lines.insert(3, f"  ... {skipped} more\n")
    kept = [part for part in "".join(lines).splitlines() if part.strip(" ^~")]
    return "\n".join(kept)


def _is_ours(filename: str) -> bool:
    parts = Path(filename).parts
    here = Path(__file__).parents[1]
    return Path(filename).is_relative_to(here) or "ray" in parts[-5:-1] or _is_plumbing(filename)


def _is_plumbing(filename: str) -> bool:
    return any(part in filename for part in _PLUMBING)
