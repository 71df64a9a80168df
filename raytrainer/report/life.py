"""Whether a run that has written no end goes on, starts its workers again, or was killed.

What holds its directory or bucket decides (``checkpoint.lease``): rank 0 does, from the first step to the end. Where
nothing does, workers may be on their way: after a death that the driver has told of they count as such for
``RESTART_S``, and in a bucket, where a record is sent from time to time, for ``SILENCE_IN_BUCKET_S``.
"""

from __future__ import annotations

import time
from pathlib import Path

from raytrainer.checkpoint.lease import is_held
from raytrainer.report.directory import cannot_read
from raytrainer.report.record import Record
from raytrainer.storage.locations import is_uri
from raytrainer.storage.retry import BEFORE_A_RUN

RESTART_S = 600.0
"""For so long after the last word of its driver a run is said to wait for workers [s]."""
SILENCE_IN_BUCKET_S = 180.0
"""A run in a bucket that nothing holds, and that was silent for so long [s], counts as killed."""
RESTARTING = ("restart", "move")
"""Kinds of events after which workers are started again."""


def state_of(location: str, record: Record) -> str:
    """The state of a run: that of its record, or where that has no end ``running``, ``restarting`` or ``killed``.

    Args:
        location: Its directory or URI.
        record: What it has written.

    Raises:
        ConfigurationError: If its bucket cannot be read.
    """
    if record.state != "unfinished":
        return record.state
    restarts = bool(record.attempts) and record.attempts[-1].ending in RESTARTING
    if goes_on(location, heard=record.heard, restarts=restarts):
        return "restarting" if restarts else "running"
    return "killed" if record.attempts else record.state


def goes_on(location: str, *, heard: float | None, restarts: bool = False) -> bool:
    """Whether a run that has written no end goes on, as far as this machine can see.

    Args:
        location: Its directory or URI.
        heard: When it was last heard of [s since the epoch].
        restarts: The last that it told of was the end of its workers, and that others follow.

    Raises:
        ConfigurationError: If its bucket cannot be read.
    """
    is_remote = is_uri(location)
    held = _is_held_bucket(location) if is_remote else is_held(Path(location))
    silent_s = time.time() - (heard or 0.0)
    if held or (restarts and silent_s < RESTART_S):
        return True
    return is_remote and held is None and silent_s < SILENCE_IN_BUCKET_S


def _is_held_bucket(uri: str) -> bool | None:
    from raytrainer.checkpoint.remote.lease import is_held_bucket
    from raytrainer.storage.store import ObjectStore

    try:
        return is_held_bucket(ObjectStore(uri, BEFORE_A_RUN))
    except OSError as error:
        raise cannot_read(uri, error) from error
