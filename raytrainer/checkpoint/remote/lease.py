"""Which run may write into a bucket: one at a time, by an object that its first worker writes anew every few seconds.

The rules are those of ``checkpoint.lease``. A bucket has no locks and no times that all clients agree on: each beat is
another number in the object, and a run that takes a bucket reads after a moment whether the object is still its own,
because another one may have written at the same time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from typing import Any, cast

from raytrainer.checkpoint import lease
from raytrainer.checkpoint.lease import NAME, Holder, in_use, this_process
from raytrainer.storage.retry import OF_LOGS
from raytrainer.storage.store import ObjectStore

logger = logging.getLogger(__name__)

BEAT_S = 10.0
"""How often the object is written; it is a request each time."""
SETTLE_S = 0.5
"""Until a run trusts that nobody else took the bucket at the same time."""


@contextlib.contextmanager
def held_bucket(store: ObjectStore, run_id: str, *, report: Callable[[str], None]) -> Generator[None]:
    """One rank: hold a bucket for a run.

    Args:
        store: Of the run's URI.
        run_id: Names the run. A later attempt of the same run takes over from an earlier one.
        report: Called with one sentence if the end of another run is waited for.

    Raises:
        ConfigurationError: If another run that lives holds it.
        OSError: If the store fails.
    """
    mine = this_process(run_id)
    _take(store, mine, report)
    is_over = threading.Event()
    patient = store.with_patience(OF_LOGS)
    beats = threading.Thread(target=_beat, args=(patient, mine, is_over), name="lease", daemon=True)
    beats.start()
    try:
        yield
    finally:
        is_over.set()
        beats.join()
        with contextlib.suppress(OSError):  # then it ages
            if _read(patient)[0] == mine:
                patient.delete(NAME)


def check_bucket_free(store: ObjectStore, *, report: Callable[[str], None]) -> None:
    """On a driver: refuse a bucket that a living process of this machine holds.

    Raises:
        ConfigurationError: If it is held.
        OSError: If the store fails.
    """
    holder, _ = _read(store)
    if holder is not None and holder.is_here() and holder.is_alive():
        _wait_for_end(store, holder, report)


def is_held_bucket(store: ObjectStore) -> bool | None:
    """Whether a run that lives holds a bucket, as far as this machine can see; None if no run says that it does.

    A run of another machine counts as dead when it has not written for ``lease.STALE_S``. Changes nothing.

    Raises:
        OSError: If the store fails.
    """
    holder, text = _read(store)
    if text is None:
        return None
    if holder is not None and holder.is_here():
        return holder.is_alive()
    age_s = store.age_of(NAME)
    return None if age_s is None else age_s < lease.STALE_S


def _take(store: ObjectStore, mine: Holder, report: Callable[[str], None]) -> None:
    while True:
        holder, text = _read(store)
        if text is not None and (holder is None or holder.run_id != mine.run_id):
            _wait_for_end(store, holder, report)
        _write(store, mine, 0)
        time.sleep(SETTLE_S)
        if _read(store)[0] == mine:
            return


def _wait_for_end(store: ObjectStore, holder: Holder | None, report: Callable[[str], None]) -> None:
    """Wait until a run has released the bucket, its process is dead, or it has been silent for long enough."""
    is_here = holder is not None and holder.is_here()
    who = "an unknown process" if holder is None else str(holder)
    began, first = time.monotonic(), _read(store)[1]
    is_told = False
    while True:
        if holder is not None and is_here and not holder.is_alive():
            return
        now, text = _read(store)
        waited = time.monotonic() - began
        if text is None:
            return
        is_alive = is_here or text != first
        if is_alive and waited >= lease.PATIENCE_S:
            raise in_use(store.location(), now, store.location(NAME))
        if not is_alive and waited >= lease.STALE_S:
            report(f"{store.location()} is taken over: the run that used it ({who}) gave no sign of life.")
            return
        if not is_told:
            is_told = True
            limit = lease.PATIENCE_S if is_here else lease.STALE_S
            report(
                f"{store.location()} may be in use by another run ({who}). Waiting up to {limit:.0f} s for it ..."
            )
        time.sleep(min(1.0, lease.PATIENCE_S / 10))


def _read(store: ObjectStore) -> tuple[Holder | None, str | None]:
    """The holder, None if it cannot be read; and the text, which differs from beat to beat, None if there is none."""
    try:
        text = store.get_text(NAME)
    except FileNotFoundError:
        return None, None
    try:
        found = cast("dict[str, Any]", json.loads(text))
        found.pop("beat")
        return Holder(**found), text
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
        return None, text


def _write(store: ObjectStore, mine: Holder, beat: int) -> None:
    store.put_text(NAME, json.dumps({**asdict(mine), "beat": beat}))


def _beat(store: ObjectStore, mine: Holder, is_over: threading.Event) -> None:
    for number in itertools.count(1):
        if is_over.wait(BEAT_S):
            return
        try:
            if _read(store)[0] != mine:  # somebody took it away, as its refusal advises
                return
            _write(store, mine, number)
        except OSError as error:
            logger.debug("The lease of %s could not be renewed: %s", store.location(), error)
