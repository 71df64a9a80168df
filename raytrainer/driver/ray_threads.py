"""The threads of this process that call Ray. They end before Ray's client does.

A thread that is within one of Ray's calls while the process takes that client apart makes Ray end the process at once,
with exit status 1, whatever the script did until then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_running: set[threading.Thread] = set()
_lock = threading.Lock()


def start(target: Callable[[], object], name: str) -> None:
    """Run a function in a thread.

    Args:
        target: The function.
        name: Of the thread.
    """

    def run() -> None:
        try:
            target()
        finally:
            with _lock:
                _running.discard(thread)

    thread = threading.Thread(target=run, name=name, daemon=True)
    with _lock:
        _running.add(thread)
    thread.start()


def wait_for_all(timeout_s: float) -> None:
    """Wait until none of the threads runs, or for ``timeout_s``; more of them may begin meanwhile."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        with _lock:
            running = [thread for thread in _running if thread is not threading.current_thread()]
        if not running:
            return
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            logger.debug("Still running: %s", ", ".join(thread.name for thread in running))
            return
        running[0].join(left_s)
