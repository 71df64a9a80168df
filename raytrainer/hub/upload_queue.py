"""Background uploads: one at a time and in order; a newer one replaces those that have not started.

A thread uploads while the loop goes on. An upload that has not started is canceled when a newer one is submitted,
unless it is required. So a slow connection delays uploads without piling them up, and the one submitted last is always
made. The interpreter waits at exit for the upload that is running.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any


class UploadQueue:
    """The uploads of one process."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="raytrainer-hub")
        self._lock = threading.Lock()
        self._pending: list[Future[Any]] = []
        self._replaceable: Future[Any] | None = None

    def submit(
        self,
        upload: Callable[[], Any],
        *,
        clean_up: Callable[[], None] = lambda: None,
        is_required: bool = True,
    ) -> Future[Any]:
        """Start an upload as soon as those before it have ended; return at once.

        Args:
            upload: Makes the upload; runs in the background.
            clean_up: Called when the upload has ended, failed or been canceled.
            is_required: Never cancel it. Otherwise it is canceled when another upload that is not required is
                submitted before it has started.
        """
        with self._lock:
            replaceable, self._replaceable = self._replaceable, None
        if not is_required and replaceable is not None:
            replaceable.cancel()

        def upload_and_clean_up() -> Any:
            try:
                return upload()
            finally:
                clean_up()  # before anyone sees the future as done

        future = self._executor.submit(upload_and_clean_up)
        future.add_done_callback(lambda done: clean_up() if done.cancelled() else None)
        with self._lock:
            self._pending = [one for one in self._pending if not one.done()] + [future]
            self._replaceable = None if is_required else future
        return future

    @property
    def pending(self) -> list[Future[Any]]:
        """The uploads that have not ended."""
        with self._lock:
            return [one for one in self._pending if not one.done()]

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for all uploads.

        Returns:
            Whether all have ended.
        """
        with self._lock:
            pending = list(self._pending)
        return not wait(pending, timeout_s).not_done

    def cancel_pending(self) -> None:
        """Cancel the uploads that have not started."""
        with self._lock:
            pending = list(self._pending)
        for future in pending:
            future.cancel()
