"""A plugin of coverage.py that saves what was measured every half second, for processes that never exit in order.

Ray ends its workers with SIGKILL or ``_exit`` in C++, tests kill ranks on purpose, and neither gives Python a chance to
write its data at exit. What such a process did in its last half second is not counted.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import coverage

INTERVAL_S = 0.5
_saving = threading.Lock()


def _save_for_ever() -> None:
    while True:
        time.sleep(INTERVAL_S)
        with _saving:
            measurement = coverage.Coverage.current()
            if measurement is not None:
                measurement.save()


def coverage_init(registry: object, options: dict[str, Any]) -> None:
    """Called by coverage.py in every process that it measures."""
    # A child that is forked in the middle of a save would inherit SQLite's locks for ever.
    os.register_at_fork(
        before=_saving.acquire, after_in_parent=_saving.release, after_in_child=_saving.release
    )
    threading.Thread(target=_save_for_ever, name="save-coverage", daemon=True).start()
