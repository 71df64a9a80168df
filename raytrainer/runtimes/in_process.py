"""The runtime of one process without Ray: for debugging, for tests, and for small runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from raytrainer.runtimes.base import Command
from raytrainer.runtimes.interrupts import Heard, interrupts

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

    def add_up(self, numbers: Sequence[int]) -> list[int]:
        return list(numbers)

    def command(self) -> Command:
        return self._command

    def emit(self, event: object) -> None:
        self._on_event(event)

    def consult(self, step: int, event: object) -> None:
        self.emit(event)

    @contextlib.contextmanager
    def listening(self, *, sigterm_only_asks: bool = False) -> Generator[Heard]:
        with interrupts(self._on_interrupt, sigterm_only_asks=sigterm_only_asks) as heard:
            yield heard
        self._command = Command.NONE

    def _on_interrupt(self) -> None:
        self._command = Command.STOP_AFTER_SAVE
