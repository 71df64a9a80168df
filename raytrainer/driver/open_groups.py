"""The worker groups of this process that hold resources.

Workers that wait for their next task hold CPUs and GPUs. So a new group ends the idle groups of other trainers, before
it starts and while it waits for room, and a group ends with its process, or with its trainer when nothing refers to
that any more.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from raytrainer.driver import ray_threads
from raytrainer.driver.cluster import at_exit
from raytrainer.driver.ray_output import drop_crashes

logger = logging.getLogger(__name__)

ENDED_S = 20.0
"""How long what still ends at the end of the process may take."""


class Group(Protocol):
    """What this file needs of a worker group."""

    @property
    def is_open(self) -> bool: ...

    def end_if_idle(self) -> None: ...

    def kill_at_exit(self) -> None: ...


_groups: weakref.WeakSet[Group] = weakref.WeakSet()
_lock = threading.Lock()


def add(group: Group) -> None:
    """Add a group that is about to start, and end the idle ones first."""
    with _lock:
        _groups.add(group)
        _end_all_at_exit()
    end_idle(group)


def end_idle(beside: Group) -> None:
    """End the groups of this process that have nothing to do, except one."""
    with _lock:
        others = [other for other in _groups if other is not beside]
    for other in others:
        if other.is_open:
            other.end_if_idle()


def remove(group: Group) -> None:
    """Forget a group that has ended."""
    with _lock:
        _groups.discard(group)


def end_all() -> None:
    """End every group of this process at once; the workers leave nothing."""
    drop_crashes()
    with _lock:
        groups = list(_groups)
    for group in groups:
        try:
            group.kill_at_exit()
        except Exception:  # The process ends anyway, and the others must be ended too.
            logger.debug("Could not end a worker group.", exc_info=True)
    ray_threads.wait_for_all(ENDED_S)


def end_with(owner: object, end: Callable[[], None]) -> weakref.finalize[[], object]:
    """Call ``end``, which must not refer to ``owner``, when nothing refers to ``owner`` any more."""
    finalizer = weakref.finalize(owner, end)
    finalizer.atexit = False  # `end_all` does that, before Ray's own end
    return finalizer


@functools.cache
def _end_all_at_exit() -> None:
    at_exit(end_all)
