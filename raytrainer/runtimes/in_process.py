"""The runtime of one process without Ray: for debugging, for tests, and for small runs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from raytrainer.runtimes.base import Command

T = TypeVar("T")


class LocalRuntime:
    """One rank that is alone."""

    rank = 0
    local_rank = 0
    world_size = 1
    local_world_size = 1
    attempt = 0

    def __init__(self, on_event: Callable[[object], None]) -> None:
        """Store where events go.

        Args:
            on_event: Renders the events of the run.
        """
        self.run_id = ""
        self._on_event = on_event
        self._command = Command.NONE

    def barrier(self) -> None:
        return None

    def broadcast(self, value: T) -> T:
        return value

    def gather(self, value: T) -> list[T] | None:
        return [value]

    def scatter(self, values: Sequence[T] | None) -> T:
        assert values is not None
        return values[0]

    def agree(self, flags: Sequence[int]) -> list[int]:
        return list(flags)

    def command(self) -> Command:
        return self._command

    def emit(self, event: object) -> None:
        self._on_event(event)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        with interrupts(self._on_interrupt):
            yield
        self._command = Command.NONE

    def _on_interrupt(self) -> None:
        self._command = Command.STOP_AFTER_SAVE


@contextlib.contextmanager
def interrupts(on_first: Callable[[], None]) -> Iterator[None]:
    """While it lasts, the first Ctrl-C (or SIGTERM) calls ``on_first``; the second one interrupts as usual.

    Does nothing outside of the main thread, where Python allows no signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: Any) -> None:
        restore()
        on_first()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
