"""When a run may change its number of workers by itself: a change costs a save and a start of the workers.

Not sooner than ``elastic_timeout_s`` after training began with the present ones, and not when training ends sooner than
that. So a node that comes and goes, or two runs that look at the same room, do not keep a run from training.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from raytrainer.telemetry.events import StepDone, TrainEnded, TrainStarted


class Pace:
    """Follows the training of one group.

    Args:
        pause_s: Least time between two changes, and between a change and the end [s].
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause_s = pause_s
        self._clock = clock
        self._began_s: float | None = None
        self._left_s: float | None = None

    def note(self, event: object) -> None:
        """Take note of an event of the workers."""
        if isinstance(event, TrainStarted):
            self._began_s, self._left_s = self._clock(), None
        elif isinstance(event, StepDone):
            self._left_s = event.eta_s
        elif isinstance(event, TrainEnded):
            self.stop()

    def stop(self) -> None:
        """The workers no longer train."""
        self._began_s = self._left_s = None

    @property
    def allows(self) -> bool:
        """Whether a change pays now."""
        if self._began_s is None or self._left_s is None:
            return False
        return self._clock() - self._began_s >= self._pause_s and self._left_s >= self._pause_s
