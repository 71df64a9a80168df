"""How long room for workers is waited for, and when a person reads what for.

The time in which nodes are being started does not count: a cluster that grows is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from raytrainer.driver.placement_words import Wait, no_room_text, waiting_text
from raytrainer.errors import PlacementError
from raytrainer.telemetry.events import Note

FIRST_NOTE_S = 5.0
"""After that time the user reads what is waited for."""
NEXT_NOTE_S = 60.0
"""After that time again."""


class Patience:
    """The patience of one wait, which begins now.

    Args:
        timeout_s: How long to wait [s].
        show: Renders a note.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self, timeout_s: float, show: Callable[[object], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._timeout_s = timeout_s
        self._show = show
        self._clock = clock
        self._began_s = self._grew_s = clock()
        """``_grew_s``: when nodes were last seen to be started."""
        self._next_note_s = FIRST_NOTE_S

    @property
    def age_s(self) -> float:
        """Seconds since the wait began."""
        return self._clock() - self._began_s

    @property
    def waited_s(self) -> float:
        """Seconds that count."""
        return self._clock() - self._grew_s

    def look(self, wait: Wait) -> None:
        """Tell how things stand when it is time to.

        Args:
            wait: How things stand.

        Raises:
            PlacementError: If it took too long.
        """
        if wait.tables.is_growing:
            self._grew_s = self._clock()
        if self.waited_s >= self._timeout_s:
            raise PlacementError(no_room_text(wait))
        if self.age_s >= self._next_note_s:
            self._next_note_s += NEXT_NOTE_S
            self._show(Note(text=waiting_text(wait, self.waited_s), level="warning"))
