"""How fast this rank trains.

One addition per micro-batch; everything else happens when the rate is read. Knows nothing of other ranks: their
readings are gathered together with the losses.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class SpeedMeter:
    """Counts samples, and computes their rate since the last reading.

    Args:
        clock: A monotonic clock [s].
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_samples = 0
        self._since = clock()

    def add(self, num_samples: int) -> None:
        """Count samples that this rank trained on. Cheap; called for every micro-batch."""
        self._num_samples += num_samples

    @property
    def elapsed_s(self) -> float:
        """Time since the last reading [s], to decide whether the next one is due."""
        return self._clock() - self._since

    def read(self) -> float:
        """Return the rate since the last reading [samples/s] and start over; 0 when no time has passed."""
        elapsed_s = self.elapsed_s
        rate = self._num_samples / elapsed_s if elapsed_s > 0 else 0.0
        self.restart()
        return rate

    def restart(self) -> None:
        """Discard what was counted; after an evaluation or a checkpoint, whose time is not training time."""
        self._num_samples = 0
        self._since = self._clock()
