"""Events of the workers, numbered, until the driver asks for them."""

from __future__ import annotations

from collections import deque

MAX_EVENTS = 20_000
"""Events that are kept for a driver that does not ask; the oldest are dropped first."""


class EventLog:
    """Events in order, each with a number that never changes."""

    def __init__(self) -> None:
        self._events: deque[object] = deque()
        self._first = 0

    @property
    def next_number(self) -> int:
        """The number that the next event will have."""
        return self._first + len(self._events)

    def append(self, event: object) -> None:
        """Add an event."""
        self._events.append(event)
        if len(self._events) > MAX_EVENTS:
            self._events.popleft()
            self._first += 1

    def since(self, number: int) -> list[object]:
        """Events from ``number`` on."""
        return list(self._events)[max(0, number - self._first) :]
