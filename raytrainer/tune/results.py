"""What a sweep found: one row for each trial, which is the best, and the file in which that is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from raytrainer.tune.interruption import INTERRUPTED
from raytrainer.tune.objective import Objective

FORMAT = 1
RESULTS_NAME = "sweep.json"
ENDING_NAME = "ending.json"
"""In a trial's directory: how it ended."""


@dataclass(kw_only=True)
class Evaluation:
    """One evaluation of a trial."""

    step: int
    max_steps: int
    epoch: float
    objectives: list[float]
    seconds: float
    """Since the trial began."""
    checkpoint: str | None
    metrics: dict[str, float]


@dataclass(kw_only=True)
class TrialResult:
    """A trial."""

    run_id: str
    state: str
    """``finished``, ``ended early`` (by its own callbacks), ``stopped`` (by the scheduler or a limit), ``failed``,
    ``interrupted`` (with the sweep, after it saved), ``running``, ``paused`` or ``pending``."""
    hyperparameters: dict[str, Any]
    path: str
    evaluations: list[Evaluation] = field(default_factory=list[Evaluation])
    error: str | None = None
    last_checkpoint: str | None = None

    @property
    def seconds(self) -> float:
        """How long the trial has trained."""
        return self.evaluations[-1].seconds if self.evaluations else 0.0

    @property
    def step(self) -> int:
        """The step of its last evaluation."""
        return self.evaluations[-1].step if self.evaluations else 0

    def counted(self, scope: str, modes: Sequence[str]) -> Evaluation | None:
        """The evaluation that counts: the last one, or the one with the best first objective."""
        if not self.evaluations:
            return None
        if scope == "last":
            return self.evaluations[-1]
        sign = 1 if modes[0] == "min" else -1
        return min(self.evaluations, key=lambda one: sign * one.objectives[0])


@dataclass(kw_only=True)
class SweepResult:
    """A sweep: the ``run_summary`` of a ``BestRun``."""

    path: str
    directions: list[str]
    scope: str
    """Which evaluation of a trial counts: ``last`` or ``best``."""
    trials: list[TrialResult]
    seconds: float = 0.0
    interrupted: bool = False
    """The user ended it; ``resume=True`` goes on."""

    def end(self, *, is_interrupted: bool) -> None:
        """Note that the sweep has ended.

        Args:
            is_interrupted: The user ended it.
        """
        self.interrupted = is_interrupted
        for trial in self.trials:
            if trial.state in ("running", "paused"):
                trial.state = INTERRUPTED

    @property
    def modes(self) -> list[str]:
        """``min`` or ``max`` for each objective."""
        return [direction[:3] for direction in self.directions]

    def objectives(self, trial: TrialResult) -> list[float] | None:
        """What counts of a trial; None if it gave nothing."""
        counted = trial.counted(self.scope, self.modes)
        return None if counted is None or trial.state == "failed" else counted.objectives

    @property
    def ranked(self) -> list[TrialResult]:
        """Trials with a result, the best first (by the first objective)."""
        sign = 1 if self.modes[0] == "min" else -1
        return sorted(
            (trial for trial in self.trials if self._has_number(trial)),
            key=lambda trial: (sign * (self.objectives(trial) or [math.inf])[0], trial.run_id),
        )

    @property
    def best(self) -> list[TrialResult]:
        """The best trial; with several objectives all that no other one beats in each of them."""
        ranked = self.ranked
        if len(self.directions) == 1:
            return ranked[:1]
        return [one for one in ranked if not any(self._beats(other, one) for other in ranked)]

    def best_checkpoint(self, trial: TrialResult) -> str | None:
        """The checkpoint of the evaluation that counts; the last one where that has none."""
        counted = trial.counted(self.scope, self.modes)
        return (counted.checkpoint if counted is not None else None) or trial.last_checkpoint

    def _has_number(self, trial: TrialResult) -> bool:
        found = self.objectives(trial)
        return found is not None and all(math.isfinite(one) for one in found)

    def _beats(self, one: TrialResult, other: TrialResult) -> bool:
        mine, theirs = self.objectives(one) or [], self.objectives(other) or []
        signed = [
            (a, b) if mode == "min" else (-a, -b) for a, b, mode in zip(mine, theirs, self.modes, strict=True)
        ]
        return all(a <= b for a, b in signed) and any(a < b for a, b in signed)

    @classmethod
    def read(cls, directory: Path) -> SweepResult:
        """Read ``sweep.json`` of a sweep's directory.

        Raises:
            OSError: If it is not there.
        """
        content = json.loads((directory / RESULTS_NAME).read_text(encoding="utf-8"))
        trials = [_read_trial(row) for row in content["trials"]]
        return cls(
            path=str(directory),
            directions=content["directions"],
            scope=content["scope"],
            trials=trials,
            seconds=content["seconds"],
            interrupted=content["interrupted"],
        )

    def write(self) -> Path:
        """Write ``sweep.json`` into the sweep's directory."""
        path = Path(self.path) / RESULTS_NAME
        content = {"format": FORMAT, **asdict(self), "best": [trial.run_id for trial in self.best]}
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(_plain(content), indent=2) + "\n", encoding="utf-8")
        scratch.replace(path)
        return path


def evaluation_of(result: Mapping[str, Any], objective: Objective) -> Evaluation | None:
    """Read one result of a trial; None for one that is not an evaluation."""
    if objective.names[0] not in result:
        return None
    metrics = {
        name: float(value)
        for name, value in result.items()
        if name.startswith("eval_") and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return Evaluation(
        step=int(result.get("step", 0)),
        max_steps=int(result.get("max_steps", 0)),
        epoch=float(result.get("epoch") or 0.0),
        objectives=[float(result[name]) for name in objective.names],
        seconds=float(result.get("time_total_s", 0.0)),
        checkpoint=result.get("checkpoint"),
        metrics=metrics,
    )


def _read_trial(row: dict[str, Any]) -> TrialResult:
    evaluations = [_read_evaluation(one) for one in row["evaluations"]]
    return TrialResult(**cast("dict[str, Any]", {**row, "evaluations": evaluations}))


def _read_evaluation(row: dict[str, Any]) -> Evaluation:
    objectives = [float(one) for one in row["objectives"]]  # infinities are text in JSON
    return Evaluation(**cast("dict[str, Any]", {**row, "objectives": objectives}))


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN; what is not JSON becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in cast("list[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
