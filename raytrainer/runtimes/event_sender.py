"""Sends a rank's events to the control actor, without ever making the loop wait.

Events are collected for a tenth of a second, then a separate thread sends them in one call; a committed checkpoint is
sent at once, so that the driver can name it whatever dies next. Of several ``StepDone`` in a row only the last one is
sent. Order is kept, and ``flush`` returns when everything has arrived, so that no event of a task comes after its
result.
"""

from __future__ import annotations

import logging
import threading
import uuid
from typing import Any

from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.ray_calls import Ref
from raytrainer.telemetry.events import CheckpointCommitted, PredictionStep, StepDone

logger = logging.getLogger(__name__)

INTERVAL_S = 0.1
"""How long events are collected before they are sent."""
_LATEST_ONLY = (StepDone, PredictionStep)


class EventSender:
    """Sends the events of one rank.

    Args:
        control: Handle of the control actor.
        attempt: Attempt of the workers that the events belong to.
    """

    def __init__(self, control: Any, attempt: int) -> None:
        self._control = control
        self._attempt = attempt
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._has_work = threading.Event()
        self._closed = threading.Event()
        self._pending: list[object] = []
        self._name = uuid.uuid4().hex
        self._num_sent = 0
        self._last_call: Ref[None] | None = None
        self._thread: threading.Thread | None = None

    def emit(self, event: object) -> None:
        """Queue an event; returns at once."""
        with self._lock:
            is_newer = (
                bool(self._pending)
                and isinstance(event, _LATEST_ONLY)
                and type(self._pending[-1]) is type(event)
            )
            if is_newer:
                self._pending[-1] = event
            else:
                self._pending.append(event)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="raytrainer-events", daemon=True)
                self._thread.start()
        if isinstance(event, CheckpointCommitted):
            self._try_to_send()
        self._has_work.set()

    def flush(self, timeout_s: float = 30.0) -> None:
        """Send what is queued, and wait until it has arrived."""
        self._send()
        call = self._last_call
        if call is not None:
            ray_calls.is_ready(call, timeout_s)

    def close(self) -> None:
        """End the thread; events that were not flushed are dropped."""
        self._closed.set()
        self._has_work.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._has_work.wait()
            self._has_work.clear()
            self._try_to_send()
            self._closed.wait(INTERVAL_S)

    def _try_to_send(self) -> None:
        try:
            self._send()
        except Exception:  # Events must never harm training.
            logger.debug("Could not send events.", exc_info=True)

    def _send(self) -> None:
        # One lock around both, or a later batch could be sent before an earlier one.
        with self._sending:
            with self._lock:
                events, self._pending = self._pending, []
            if events:
                number, self._num_sent = self._num_sent, self._num_sent + 1
                self._last_call = self._control.push.remote(self._attempt, self._name, number, events)
