"""What a worker writes down when a task fails, and what kind of failure it is.

The kind decides what happens next. A programming or data error would come back after every restart, so it ends the
run at once. A broken connection to a peer is only the echo of what happened to that peer. Everything else may be bad
luck, and the workers are started again. Exceptions that nobody here has heard of count as bad luck; the guard against
crash loops catches those that are not.
"""

from __future__ import annotations

import enum
import os
import pickle
import re
import socket
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import cloudpickle

from raytrainer.errors import CheckpointError, ConfigurationError, EngagementError


class Verdict(enum.Enum):
    """What kind of failure an exception is."""

    DETERMINISTIC = "deterministic"
    """It would happen again: end the run at once."""
    COLLATERAL = "collateral"
    """The echo of another rank's failure."""
    TRANSIENT = "transient"
    """It may not happen again: start the workers again."""


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """One rank's failure, as plain values."""

    rank: int
    node: str
    pid: int
    attempt: int
    """Of the workers, 0 for their first start."""
    step: int | None
    """Optimizer steps that were done, if the task counts steps."""
    method: str | None
    """The task; None while the workers were being set up."""
    verdict: Verdict
    type_name: str
    message: str
    user_frames: str
    """The traceback from the user's code on."""
    pickled: bytes | None
    """The exception, if it survives a pickle."""
    log_file: str | None
    time: float
    """Seconds since the epoch."""


_DETERMINISTIC = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    NameError,
    ImportError,
    NotImplementedError,
    ZeroDivisionError,
    ConfigurationError,
    EngagementError,
    CheckpointError,
    SyntaxError,
)
_COLLATERAL_TYPES = {
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "ActorDiedError",
    "RayActorError",
    "DispatchError",
}
_COLLATERAL_TEXT = re.compile(
    r"connection (closed|reset|refused)|broken pipe|closed by peer|peer closed|gloo/transport|"
    r"nccl (communicator was aborted|remote|error)|ncclremoteerror|socket closed|process group.*(abort|destroy)|"
    r"watchdog.*(timeout|timed out)|timed out waiting \d+ms for (recv|send)",
    re.IGNORECASE,
)
_DETERMINISTIC_TEXT = re.compile(
    r"size mismatch|shapes? cannot be multiplied|must match the size of tensor|shape '.*' is invalid|"
    r"expected (all tensors|scalar type|object of scalar|.*dtype|.*tensor for argument|.*got \d+)|"
    r"mat1 and mat2|element 0 of tensors does not require grad|error\(s\) in loading state_dict|"
    r"invalid (shape|argument|index)|index .* out of (range|bounds)|must have the same (dtype|shape)|"
    r"not implemented for '|the size of tensor a|expected input batch_size|given groups=|"
    r"trying to backward through the graph a second time|modified by an inplace operation|"
    r"expected to have finished reduction in the prior iteration|dimension out of range|"
    r"stack expects each tensor|sizes of tensors must match|target .* is out of bounds|"
    r"result type .* can't be cast|boolean value of tensor|a leaf variable that requires grad",
    re.IGNORECASE,
)


def judge(error: BaseException) -> Verdict:
    """Say what kind of failure an exception is."""
    names = {base.__name__ for base in type(error).__mro__}
    text = str(error)
    if names & _COLLATERAL_TYPES:
        return Verdict.COLLATERAL
    if isinstance(error, _DETERMINISTIC):
        return Verdict.DETERMINISTIC
    if isinstance(error, RuntimeError) and not names & {"OutOfMemoryError", "AcceleratorError"}:
        if _COLLATERAL_TEXT.search(text):
            return Verdict.COLLATERAL
        if _DETERMINISTIC_TEXT.search(text):
            return Verdict.DETERMINISTIC
    return Verdict.TRANSIENT


def record_failure(
    error: BaseException,
    *,
    rank: int,
    attempt: int,
    step: int | None,
    method: str | None,
    log_file: str | None,
) -> FailureRecord:
    """Write down a failure of this process, now."""
    return FailureRecord(
        rank=rank,
        node=socket.gethostname(),
        pid=os.getpid(),
        attempt=attempt,
        step=step,
        method=method,
        verdict=judge(error),
        type_name=_name_of(type(error)),
        message=_message_of(error),
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
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001  an exception whose text raises is still to be reported
        text = f"<its text raises {type(failure).__name__}>"
    if isinstance(error, KeyError) and error.args:
        text = f"{error.args[0]!r}"
    notes = [str(note) for note in getattr(error, "__notes__", [])]
    origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if origin is not None:
        notes.append(f"(while handling {_name_of(type(origin))}: {str(origin).strip()[:200]})")
    return "\n".join([text, *notes])


def _pickled(error: BaseException) -> bytes | None:
    try:
        data = cloudpickle.dumps(error)
        pickle.loads(data)  # noqa: S301  made one line above; many exceptions fail only here
    except Exception:  # noqa: BLE001  then the driver shows its text
        return None
    return data


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
    """The traceback from the user's code on: what lies below it, ours and Ray's, says nothing about the error."""
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
