"""The worker groups of this process.

Workers that wait for their next task hold CPUs and GPUs. So a new group first ends the idle groups of other trainers,
and the end of the process, or of a trainer that nobody holds any more, ends its group.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from raytrainer.driver.cluster import at_exit

logger = logging.getLogger(__name__)


class Group(Protocol):
    """What the registry knows of a group."""

    @property
    def is_open(self) -> bool: ...

    @property
    def is_busy(self) -> bool: ...

    def end(self) -> None: ...

    def kill(self) -> None: ...


_groups: weakref.WeakSet[Group] = weakref.WeakSet()
_lock = threading.Lock()
_is_registered = False


def enter(group: Group) -> None:
    """Add a group that is about to start, and end the idle ones first."""
    global _is_registered  # noqa: PLW0603  atexit is per process too
    with _lock:
        others = [other for other in _groups if other is not group]
        _groups.add(group)
        if not _is_registered:
            at_exit(end_all)
            _is_registered = True
    for other in others:
        if other.is_open and not other.is_busy:
            other.end()


def leave(group: Group) -> None:
    """Forget a group that has ended."""
    with _lock:
        _groups.discard(group)


def end_all() -> None:
    """End every group of this process at once; nothing is handed over."""
    with _lock:
        groups = list(_groups)
    for group in groups:
        try:
            group.kill()
        except Exception:  # The process ends anyway, and the others must be ended too.
            logger.debug("Could not end a worker group.", exc_info=True)


def end_with(owner: object, end: Callable[[], None]) -> weakref.finalize[[], object]:
    """Call ``end``, which must not hold ``owner``, when nobody holds ``owner`` any more."""
    finalizer = weakref.finalize(owner, end)
    finalizer.atexit = False  # `end_all` does that, before Ray's own end
    return finalizer
