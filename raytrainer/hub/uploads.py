"""Uploads in the background: one at a time, in order, and the newest instead of all that wait.

A thread works while the loop goes on. An upload that has not begun gives way to a newer one, unless it must be made;
so a slow line delays uploads and never piles them up, and what was offered last is always made. The interpreter waits
for uploads that run when it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any


class Uploads:
    """The uploads of one process."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="raytrainer-hub")
        self._lock = threading.Lock()
        self._pending: list[Future[Any]] = []
        self._replaceable: Future[Any] | None = None

    def add(
        self, send: Callable[[], Any], *, clean_up: Callable[[], None] = lambda: None, must: bool = True
    ) -> Future[Any]:
        """Begin an upload as soon as those before it have ended. Returns at once.

        Args:
            send: Makes the upload; runs in the background.
            clean_up: Called when it has ended, failed, or given way.
            must: It never gives way. Otherwise it does if a newer one that need not be made comes before it begins;
                its future is then cancelled.
        """
        with self._lock:
            replaceable, self._replaceable = self._replaceable, None
        if not must and replaceable is not None:
            replaceable.cancel()

        def send_and_clean_up() -> Any:
            try:
                return send()
            finally:
                clean_up()  # before anybody hears that it has ended

        future = self._executor.submit(send_and_clean_up)
        future.add_done_callback(lambda done: clean_up() if done.cancelled() else None)
        with self._lock:
            self._pending = [one for one in self._pending if not one.done()] + [future]
            self._replaceable = None if must else future
        return future

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for all uploads.

        Returns:
            Whether none is left.
        """
        with self._lock:
            pending = list(self._pending)
        return not wait(pending, timeout_s).not_done

    def cancel_waiting(self) -> None:
        """Drop what has not begun."""
        with self._lock:
            pending = list(self._pending)
        for future in pending:
            future.cancel()
