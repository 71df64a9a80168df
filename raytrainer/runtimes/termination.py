"""What SIGTERM does to a Ray worker with ``enable_jit_checkpoint``: it asks all ranks to save, and to go on elsewhere.

A machine that is taken away sends it to the processes that it runs. SIGTERM to the driver asks to stop.

The training function runs in a thread, and Python runs signal handlers in the main thread only. So the handler is
installed by a call that Ray Train makes in the main thread of the worker, and leaves a note that the loop reads.
"""

from __future__ import annotations

import signal
import threading

_asked = threading.Event()


def save_on_sigterm() -> None:
    """In the main thread of a worker: replace Ray's handler, which ends the process at once."""
    signal.signal(signal.SIGTERM, lambda number, frame: _asked.set())


def was_asked_to_end() -> bool:
    """Whether this process got a SIGTERM since ``forget``."""
    return _asked.is_set()


def forget() -> None:
    """A new task begins: the worker outlived what it was asked before."""
    _asked.clear()
