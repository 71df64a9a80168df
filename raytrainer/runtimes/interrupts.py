"""What Ctrl-C and SIGTERM do while a call runs: the first one asks to stop, the second one stops.

A scheduler that takes a machine away may send SIGTERM several times before it kills. With ``enable_jit_checkpoint``
only the first one counts, and the checkpoint that it asked for is finished.

A process that was told to end ends when the call is over, and its status says why. The rest of a script (evaluate, save
the model, upload it) would take a run that was cut for one that is complete, and so would a scheduler that sees 0.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType


class Heard:
    """Which signals came in a block of ``interrupts``."""

    sigterm = False
    """The process was told to end."""


def end_as_told(exit_code: int | None) -> None:
    """End this process, which got a SIGTERM, as far as the user wants that.

    Args:
        exit_code: Its status; None to go on.

    Raises:
        SystemExit: Unless it is to go on.
    """
    if exit_code is not None:
        raise SystemExit(exit_code)


@contextlib.contextmanager
def interrupts(on_first: Callable[[], None], *, sigterm_only_asks: bool = False) -> Generator[Heard]:
    """Inside the block, the first Ctrl-C (or SIGTERM) calls ``on_first``; the second one interrupts as usual.

    Does nothing outside of the main thread, where Python allows no signal handlers.

    Args:
        on_first: Asks for an orderly stop.
        sigterm_only_asks: A second SIGTERM changes nothing; a second Ctrl-C still interrupts.
    """
    heard = Heard()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        restore()
        heard.sigterm = number == signal.SIGTERM
        if sigterm_only_asks:
            signal.signal(signal.SIGTERM, lambda number, frame: None)
        on_first()

    for number in before:
        signal.signal(number, handle)
    try:
        yield heard
    finally:
        restore()
