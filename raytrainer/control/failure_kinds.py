"""What kind of failure an exception is: it would come back, it echoes another rank's failure, or it may be bad luck.

A programming or data error would come back after every restart. A broken connection to a peer only echoes what happened
to that peer. Everything else may be bad luck, including exceptions that are not known here; the policy ends a run in
which the same one keeps coming back.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

from raytrainer import errors
from raytrainer.wire.failure_record import FailureRecord


class FailureKind(enum.Enum):
    """What kind of failure an exception is."""

    DETERMINISTIC = "deterministic"
    """It would happen again after a restart."""
    COLLATERAL = "collateral"
    """It echoes another rank's failure."""
    TRANSIENT = "transient"
    """It may not happen again."""


_DETERMINISTIC_TYPES = {
    kind.__name__
    for kind in (
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        AssertionError,
        NameError,
        ImportError,
        NotImplementedError,
        ZeroDivisionError,
        SyntaxError,
        errors.ConfigurationError,
        errors.EngagementError,
        errors.CheckpointError,
    )
}
_COLLATERAL_TYPES = {
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "ActorDiedError",
    "RayActorError",
    errors.DispatchError.__name__,
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


_TIMEOUT_TEXT = re.compile(r"timed out waiting|watchdog.*(timeout|timed out)|wait timeout", re.IGNORECASE)


def timed_out(records: Sequence[FailureRecord]) -> str | None:
    """The sentence for an attempt in which ranks waited for others longer than a collective may take; None if none did.

    Args:
        records: Its exceptions. Ranks whose peer has died lose their connection, and do not wait that long.
    """
    ranks = [str(one.rank) for one in records if _TIMEOUT_TEXT.search(one.message)]
    if not ranks:
        return None
    who = f"Rank{'s' if len(ranks) > 1 else ''} {', '.join(ranks)}"
    return f"{who} waited for the others in a collective for longer than ddp_timeout"


def kind_of(record: FailureRecord) -> FailureKind:
    """Classify a failure by the exception's classes, and a ``RuntimeError`` of torch by its text as well."""
    names = set(record.base_names)
    if names & _COLLATERAL_TYPES:
        return FailureKind.COLLATERAL
    if names & _DETERMINISTIC_TYPES:
        return FailureKind.DETERMINISTIC
    if "RuntimeError" in names and not names & {"OutOfMemoryError", "AcceleratorError"}:
        if _COLLATERAL_TEXT.search(record.message):
            return FailureKind.COLLATERAL
        if _DETERMINISTIC_TEXT.search(record.message):
            return FailureKind.DETERMINISTIC
    return FailureKind.TRANSIENT
