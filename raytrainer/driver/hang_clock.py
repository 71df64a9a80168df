"""How long a run has given no sign of progress, and how long it may.

A step, and a batch of an evaluation, may take twenty times as long as the median of the last ones. The first step
(in which a model is compiled), a save, and what comes directly before and after an evaluation or a save have no such
measure and get ten times the limit of a step.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable

from raytrainer.control.state import Update
from raytrainer.telemetry.events import (
    Busy,
    CheckpointCommitted,
    Evaluated,
    Logged,
    PredictionDone,
    PredictionStep,
    StepDone,
    TrainEnded,
    TrainStarted,
)

TIMES_MEDIAN = 20
"""How much longer than usual a step may take."""
UNMEASURED = 10
"""How much longer than a step that may take for which there is no measure."""
KEPT = 50
"""Steps whose time is remembered."""

_BEGINS: dict[type[object], str] = {
    TrainStarted: "training began",
    CheckpointCommitted: "a checkpoint was committed",
    PredictionDone: "an evaluation was done",
    Evaluated: "an evaluation was done",
    TrainEnded: "training ended",
}
"""Events after which there is no measure for how long it takes until the next one."""


class HangClock:
    """Follows the events of a group's task.

    Args:
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s: float | None = None
        """When the last sign of progress came; None while no workers are there."""
        self._last = "the task was given to the workers"
        self._usual: deque[float] | None = None
        """Durations of what is under way now, as it was done before; None if there is no measure."""
        self._steps: deque[float] = deque(maxlen=KEPT)
        self._batches: deque[float] = deque(maxlen=KEPT)
        self._step: tuple[int, float] | None = None
        """The last step and when it was done, if nothing else came in between."""
        self._batch: float | None = None

    @property
    def quiet_s(self) -> float:
        """Seconds since the last sign of progress; 0 while no workers are there."""
        return 0.0 if self._since_s is None else self._clock() - self._since_s

    @property
    def last(self) -> str:
        """What the last sign of progress was, and how long the next one usually takes."""
        if not self._usual:
            return self._last
        return f"{self._last}, and the next one usually takes {statistics.median(self._usual):.3g} s"

    def limit_s(self, least_s: float) -> float:
        """How long there may be no sign of progress.

        Args:
            least_s: How long a step may take at least.
        """
        if self._usual is None:
            return UNMEASURED * least_s
        usual_s = statistics.median(self._usual) if self._usual else 0.0
        return max(least_s, TIMES_MEDIAN * usual_s)

    def begin(self, update: Update) -> None:
        """A task was given to workers, which are there already if there is anything to measure."""
        if update.is_running:
            self._since_s = self._clock()

    def follow(self, update: Update) -> None:
        """Take over what is new."""
        for event in update.events:
            self._see(event)
        if not update.is_running:
            self._since_s = None  # Others wait for room then, and say so.

    def _see(self, event: object) -> None:
        now_s = self._clock()
        if isinstance(event, StepDone):
            self._see_step(event.step, now_s)
        elif isinstance(event, PredictionStep):
            self._see_batch(event, now_s)
        elif isinstance(event, Busy):
            self._note(now_s, f"{event.what} began", None)
        elif type(event) in _BEGINS:
            self._note(now_s, _BEGINS[type(event)], None)
        elif isinstance(event, Logged):
            self._since_s = now_s

    def _see_step(self, step: int, now_s: float) -> None:
        before = self._step
        self._note(now_s, f"step {step} was done", self._steps)
        if before is not None and step > before[0]:
            self._steps.append((now_s - before[1]) / (step - before[0]))
        self._step = (step, now_s)

    def _see_batch(self, event: PredictionStep, now_s: float) -> None:
        before = self._batch
        self._note(now_s, f"batch {event.done} of {event.description.lower()} was done", self._batches)
        if before is not None:
            self._batches.append(now_s - before)
        self._batch = now_s

    def _note(self, now_s: float, what: str, usual: deque[float] | None) -> None:
        self._since_s, self._last, self._usual = now_s, what, usual
        self._step = self._batch = None
