"""News of a worker group, as the driver's thread sees it: one long poll after the other, in short slices.

The slices keep the thread that waits for a result responsive to Ctrl-C.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import ray.exceptions

from raytrainer.control.state import Update
from raytrainer.driver.group_start import StartedGroup
from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.ray_calls import Ref

logger = logging.getLogger(__name__)

SLICE_S = 0.2
"""How long the driver's thread waits before it looks whether something else happened."""
LONG_POLL_S = 10.0
"""How long one call waits in the control actor before it is made again."""
LATE_S = 30.0
"""How late its answer may come."""


class Updates:
    """Follows a group over all of its tasks, and hands each event to ``on_event`` once.

    Args:
        started: The group.
        on_event: Renders an event; an exception of it is logged, and the run goes on.
    """

    def __init__(self, started: StartedGroup, on_event: Callable[[object], None]) -> None:
        self._started = started
        self._on_event = on_event
        self._next_event = 0

    def follow(self, timeout_s: float | None) -> Iterator[Update | None]:
        """What is new, and None at least every ``SLICE_S``; ends after ``timeout_s``, or when Ray has ended here.

        Raises:
            ray.exceptions.ActorDiedError: If the control actor has died.
            ray.exceptions.GetTimeoutError: If it does not answer.
        """
        began_s = asked_s = time.monotonic()
        call: Ref[Update | None] | None = None
        while timeout_s is None or time.monotonic() - began_s <= timeout_s:
            if self._started.raylet.has_ended:
                return
            if call is None:
                call = self._started.control.begin_update(self._next_event, LONG_POLL_S)
                asked_s = time.monotonic()
            is_ready = ray_calls.is_ready(call, SLICE_S)
            try:
                if is_ready:
                    update, call = self._started.control.finish_update(call), None
                elif time.monotonic() - asked_s > LONG_POLL_S + LATE_S:
                    raise ray.exceptions.GetTimeoutError("The control actor does not answer.")
                else:
                    update = self._started.control.snapshot() if self._started.fit.is_over else None
            except ray.exceptions.ActorUnavailableError:
                update = call = None  # Its connection broke; the next call says whether it has died.
                time.sleep(SLICE_S)
            if update is not None:
                self._next_event = update.next_event
                for event in update.events:
                    self.show(event)
            yield update

    def show(self, event: object) -> None:
        """Render an event."""
        try:
            self._on_event(event)
        except Exception:  # A display is never worth a run.
            logger.warning("Could not show %r.", type(event).__name__, exc_info=True)
