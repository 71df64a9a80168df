"""How fast this rank trains.

Two integer additions per step; everything else happens when somebody reads. Knows nothing of other ranks: the sum
over them is made where their readings meet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What a ``SpeedMeter`` measured since its last reading."""

    samples_per_s: float
    steps_per_s: float
    elapsed_s: float


class SpeedMeter:
    """Counts samples and steps, and tells their rates since the last reading.

    Args:
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_samples = 0
        self._num_steps = 0
        self._since = clock()

    def update(self, num_samples: int, num_steps: int = 1) -> None:
        """Count what was done. Cheap; called every step.

        Args:
            num_samples: Samples that this rank trained on.
            num_steps: Optimizer steps.
        """
        self._num_samples += num_samples
        self._num_steps += num_steps

    @property
    def elapsed_s(self) -> float:
        """Time since the last reading [s], to decide whether the next one is due."""
        return self._clock() - self._since

    def read(self) -> Speed:
        """Return the rates since the last reading and start anew. Rates are 0 when no time has passed."""
        now = self._clock()
        elapsed_s = now - self._since
        per_s = 1.0 / elapsed_s if elapsed_s > 0 else 0.0
        speed = Speed(
            samples_per_s=self._num_samples * per_s, steps_per_s=self._num_steps * per_s, elapsed_s=elapsed_s
        )
        self.restart()
        return speed

    def restart(self) -> None:
        """Forget everything since the last reading; after an evaluation, whose time is no training time."""
        self._num_samples = 0
        self._num_steps = 0
        self._since = self._clock()
