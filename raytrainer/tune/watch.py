"""What the driver sees of a running sweep: Tune's callbacks become the rows of a result, which a table shows."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.stopper import NoopStopper, Stopper

from raytrainer.tune.interruption import Interruption
from raytrainer.tune.objective import Objective
from raytrainer.tune.results import ENDING_NAME, SweepResult, TrialResult, evaluation_of

logger = logging.getLogger(__name__)

STUCK_S = 60.0
"""After so long without a trial that runs or is about to, a sweep is stuck [s]."""
_STATES = {"RUNNING": "running", "PENDING": "pending", "PAUSED": "paused", "ERROR": "failed"}


class Watcher(Callback):
    """Keeps a ``SweepResult`` as Tune runs, and hands it on whenever it has changed.

    Args:
        result: The sweep; trials are added as they come.
        objective: What trials report.
        show: Called with the sweep, often.
        interruption: Ends the sweep if the user asks for it.
        stopper: Ends the sweep if nothing goes on.
    """

    def __init__(
        self,
        result: SweepResult,
        objective: Objective,
        show: Callable[[SweepResult], None],
        interruption: Interruption,
        stopper: StopSweep,
    ) -> None:
        self._result = result
        self._objective = objective
        self._show = show
        self._interruption = interruption
        self._stopper = stopper
        self._began_s = time.monotonic()
        self._rows: dict[str, TrialResult] = {trial.run_id: trial for trial in result.trials}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # Tune keeps its callbacks on storage; a sweep that goes on is watched by the process that goes on with it.
        return Callback, ()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        del iteration, info
        self._interruption.end_if(
            lambda: [read_ending(Path(trial.path)) for trial in trials if trial.status == "RUNNING"]
        )

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        del iteration, info
        for trial in trials:
            row = self._row(trial)
            row.state = _state_of(trial)
            if row.state == "stopped" and row.evaluations and row.step >= row.evaluations[-1].max_steps:
                row.state = "finished"  # The scheduler ended it where it would have ended.
        self._stopper.see(str(trial.status) for trial in trials)
        self._result.seconds = time.monotonic() - self._began_s
        self._show(self._result)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        del iteration, trials, info
        row = self._row(trial)
        evaluation = evaluation_of(result, self._objective)
        # Those that gave this result: the scheduler may have changed those of the trial for what comes next.
        row.hyperparameters = _shown(result.get("config") or trial.config)
        if result.get("error") is not None:
            row.error = str(result["error"])
        elif evaluation is not None and (not row.evaluations or evaluation.step > row.step):
            row.evaluations.append(evaluation)
            row.last_checkpoint = evaluation.checkpoint or row.last_checkpoint
            self._result.write()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        row = self._row(trial)
        row.error = row.error or _last_line(trial)

    def _row(self, trial: Any) -> TrialResult:
        row = self._rows.get(trial.trial_id)
        if row is None:
            row = TrialResult(
                run_id=trial.trial_id,
                state="pending",
                hyperparameters=_shown(trial.config),
                path=trial.path or "",
            )
            self._rows[trial.trial_id] = row
            self._result.trials.append(row)
        return row


def _shown(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}


class StopSweep(Stopper):
    """Ends a sweep when a trial found a mistake that every trial would find, or when nothing goes on any more.

    A synchronous ``PopulationBasedTraining`` waits until all trials have come as far as the first one, also for those
    that have ended before.

    Args:
        clock: A monotonic clock [s].
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.message: str | None = None
        self._clock = clock
        self._paused_since_s: float | None = None
        self._is_stuck = False

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return NoopStopper, ()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether to stop this trial."""
        del trial_id
        if result.get("bad_input"):
            self.message = str(result["error"])
        return False

    def see(self, statuses: Iterable[str]) -> None:
        """Called often with the statuses of all trials."""
        unfinished = [one for one in statuses if one not in ("TERMINATED", "ERROR")]
        if not unfinished or any(one != "PAUSED" for one in unfinished):
            self._paused_since_s = None
        elif self._paused_since_s is None:
            self._paused_since_s = self._clock()
        elif self._clock() - self._paused_since_s > STUCK_S and not self._is_stuck:
            self._is_stuck = True
            logger.warning(
                "The scheduler has paused all %d trials that have not ended, and lets none go on for %.0f s: the sweep "
                "ends here. It may wait for trials that ended early; PopulationBasedTraining(synch=False) does not.",
                len(unfinished),
                STUCK_S,
            )

    def stop_all(self) -> bool:
        """Whether to stop the sweep."""
        return self.message is not None or self._is_stuck


def _state_of(trial: Any) -> str:
    if trial.status == "TERMINATED":
        return read_ending(Path(trial.path)) if trial.path else "stopped"
    return _STATES.get(str(trial.status), "pending")


def read_ending(directory: Path) -> str:
    """How a trial ended; ``stopped`` if it left no word, because the sweep ended it."""
    try:
        return str(json.loads((directory / ENDING_NAME).read_text(encoding="utf-8"))["state"])
    except (OSError, ValueError, KeyError):
        return "stopped"


def _last_line(trial: Any) -> str:
    lines = str(trial.get_error() or "").strip().splitlines()
    return lines[-1] if lines else "unknown error"
