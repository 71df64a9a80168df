"""Of which phases a save consists, and how long each of them took: one after the other, as a rank sees them."""

from __future__ import annotations

import time

from raytrainer.telemetry.events import Phase


class Laps:
    """Phases that follow each other; the first begins now."""

    def __init__(self) -> None:
        self._began = time.time()
        self.phases: list[Phase] = []

    def end(self, name: str) -> None:
        """A phase ends, and the next one begins."""
        now = time.time()
        self.phases.append(Phase(name=name, began=self._began, ended=now))
        self._began = now
