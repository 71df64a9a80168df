"""How long the driver waits for its workers before it says so, and before it gives up."""

from __future__ import annotations

import time

START_PATIENCE_S = 45.0
"""After that time without workers, the user is told what they wait for."""


class Patience:
    """How long a call has lasted, against its limits."""

    def __init__(self, timeout_s: float | None) -> None:
        self._began = time.monotonic()
        self._timeout_s = timeout_s
        self._has_asked = False

    def is_over(self) -> bool:
        """Whether there is no time left."""
        return self._timeout_s is not None and time.monotonic() - self._began > self._timeout_s

    def is_time_to_ask_for_workers(self) -> bool:
        """True once, after a while."""
        if self._has_asked or time.monotonic() - self._began < START_PATIENCE_S:
            return False
        self._has_asked = True
        return True
