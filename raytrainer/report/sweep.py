"""How a sweep looks on its page: its trials, their hyperparameters side by side, and the objective over time."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from raytrainer.report.charts import COLORS, timeline_spec
from raytrainer.report.directory import SWEEP_NAME

MAX_TRIALS_DRAWN = 300


@dataclass(kw_only=True)
class Trial:
    """A trial of a sweep."""

    name: str
    state: str
    hyperparameters: dict[str, Any]
    objective: float | None
    """Of the evaluation that counts, the first where there are several."""
    step: int
    seconds: float
    checkpoint: str | None
    is_best: bool
    evaluations: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])
    """Step, seconds since the trial began, objective."""
    error: str | None = None


@dataclass(kw_only=True)
class Sweep:
    """A sweep."""

    name: str
    direction: str
    seconds: float
    is_interrupted: bool
    trials: list[Trial]

    @property
    def hyperparameters(self) -> list[str]:
        """Names of what was searched."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.hyperparameters))


def read_sweep(directory: Path, *, location: str | None = None) -> Sweep | None:
    """Read the results of a sweep; None if the directory is not one of a sweep.

    Args:
        directory: With its files.
        location: Where it is, if the directory is a copy.
    """
    path = directory / SWEEP_NAME
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    direction = str(found["directions"][0])
    best = set(found.get("best") or [])
    rows = cast("list[dict[str, Any]]", found["trials"])
    trials = [_trial(row, str(found["scope"]), direction, best) for row in rows]
    return Sweep(
        name=Path((location or str(directory)).rstrip("/")).name,
        direction=direction,
        seconds=float(found.get("seconds") or 0.0),
        is_interrupted=bool(found.get("interrupted")),
        trials=trials,
    )


def _trial(row: dict[str, Any], scope: str, direction: str, best: set[str]) -> Trial:
    evaluations = [
        (int(one["step"]), float(one["seconds"]), float(one["objectives"][0]))
        for one in cast("list[dict[str, Any]]", row.get("evaluations") or [])
        if one.get("objectives") and isinstance(one["objectives"][0], int | float)
    ]
    values = [value for _, _, value in evaluations if math.isfinite(value)]
    counted = None
    if values:
        better = min if direction.startswith("min") else max
        counted = evaluations[-1][2] if scope == "last" else better(values)
    return Trial(
        name=str(row["run_id"]),
        state=str(row["state"]),
        hyperparameters=dict(row.get("hyperparameters") or {}),
        objective=counted if counted is not None and math.isfinite(counted) else None,
        step=evaluations[-1][0] if evaluations else 0,
        seconds=evaluations[-1][1] if evaluations else 0.0,
        checkpoint=row.get("last_checkpoint"),
        is_best=row["run_id"] in best,
        evaluations=[one for one in evaluations if math.isfinite(one[2])],
        error=row.get("error"),
    )


def objective_spec(sweep: Sweep, *, by_time: bool) -> dict[str, Any]:
    """The objective of each trial over its steps or its time, with the best one on top."""
    rows = [
        {"x": seconds if by_time else step, "y": value, "trial": trial.name, "best": trial.is_best}
        for trial in sweep.trials[:MAX_TRIALS_DRAWN]
        for step, seconds, value in trial.evaluations
    ]
    spec = timeline_spec(("s", 1.0), by_time=by_time, endings=())
    title = "time of the trial [s]" if by_time else "optimizer step"

    def layer(which: str, color: str, width: float) -> dict[str, Any]:
        return {
            "transform": [{"filter": which}],
            "mark": {
                "type": "line",
                "point": {"size": 30, "color": color, "filled": True, "opacity": 1},
                "color": color,
                "strokeWidth": width,
            },
            "encoding": {
                "x": {"field": "x", "type": "quantitative", "title": title, "axis": {"tickCount": 6}},
                "y": {
                    "field": "y",
                    "type": "quantitative",
                    "title": "objective",
                    "scale": {"zero": False, "padding": 6},
                    "axis": {"tickCount": 5, "format": "~g"},
                },
                "detail": {"field": "trial"},
                "tooltip": [
                    {"field": "trial"},
                    {"field": "x", "title": title},
                    {"field": "y", "format": ".5g"},
                ],
            },
        }

    return {
        "$schema": spec["$schema"],
        "width": "container",
        "height": 240,
        "data": {"values": rows},
        "layer": [layer("!datum.best", "#9db8cc", 1), layer("datum.best", COLORS[1], 2.4)],
        "config": spec["config"],
    }


def parallel_spec(sweep: Sweep) -> dict[str, Any] | None:
    """Parallel coordinates: an axis for each hyperparameter and one for the objective; a line for each trial.

    Values are placed by rank among the values that occur where they are words, and between the least and the greatest
    where they are numbers, by their logarithm where they span two orders of magnitude.
    """
    done = [trial for trial in sweep.trials if trial.objective is not None][:MAX_TRIALS_DRAWN]
    names = sweep.hyperparameters
    if not done or not names:
        return None
    axes = [*names, "objective"]
    rows: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for name in axes:
        found = {trial.name: _value(trial, name) for trial in done}
        places, low, high = _places(list(found.values()))
        labels += [{"axis": name, "y": 0.0, "text": low}, {"axis": name, "y": 1.0, "text": high}]
        rows += [
            {
                "trial": trial.name,
                "axis": name,
                "y": places[str(found[trial.name])],
                "value": str(found[trial.name]),
                "objective": trial.objective,
                "best": trial.is_best,
            }
            for trial in done
        ]
    x = {
        "field": "axis",
        "type": "nominal",
        "sort": axes,
        "title": None,
        "scale": {"padding": 0.3},
        "axis": {
            "labelAngle": 0,
            "labelLimit": 110,
            "domain": False,
            "grid": True,
            # Every second name is a line lower: on a phone they would lie on each other.
            "labelPadding": {
                "condition": {"test": f"indexof({json.dumps(axes[1::2])}, datum.value) >= 0", "value": 32},
                "value": 18,
            },
        },
    }
    y = {"field": "y", "type": "quantitative", "axis": None, "scale": {"domain": [0, 1], "padding": 6}}
    scheme: dict[str, Any] = {
        "field": "objective",
        "type": "quantitative",
        "title": "objective",
        "legend": {"orient": "top"},
    }
    # Without its yellow end, which is not seen on white.
    named = {"name": "viridis", "extent": [0, 0.75]}
    scheme["scale"] = {"scheme": named, "reverse": not sweep.direction.startswith("min")}
    tooltip = [{"field": name} for name in ("trial", "axis", "value", "objective")]
    base = timeline_spec(("s", 1.0), by_time=False, endings=())
    return {
        "$schema": base["$schema"],
        "width": "container",
        "height": 260,
        "layer": [
            {
                "data": {"values": rows},
                "mark": {"type": "line", "opacity": 0.75, "strokeWidth": 1.4},
                "encoding": {
                    "x": x,
                    "y": y,
                    "detail": {"field": "trial"},
                    "color": scheme,
                    "tooltip": tooltip,
                },
            },
            {
                "data": {"values": [row for row in rows if row["best"]]},
                "mark": {"type": "line", "color": COLORS[1], "strokeWidth": 3.5},
                "encoding": {"x": x, "y": y, "detail": {"field": "trial"}, "tooltip": tooltip},
            },
            {
                "data": {"values": labels},
                "mark": {
                    "type": "text",
                    "fontSize": 10,
                    "color": "#333",
                    "dy": {"expr": "datum.y > 0.5 ? -9 : 11"},
                },
                "encoding": {"x": x, "y": y, "text": {"field": "text"}},
            },
        ],
        "config": {**base["config"], "legend": {"labelFontSize": 11, "titleFontSize": 11}},
    }


def _value(trial: Trial, name: str) -> Any:
    return trial.objective if name == "objective" else trial.hyperparameters.get(name)


def _places(values: list[Any]) -> tuple[dict[str, float], str, str]:
    """Where values are on an axis from 0 to 1, by their text, and what is written at its ends."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values):
        low, high = min(numbers), max(numbers)
        is_wide = low > 0 and high / low >= 100
        scaled = {str(value): math.log(value) if is_wide else float(value) for value in numbers}
        least, most = min(scaled.values()), max(scaled.values())
        span = (most - least) or 1.0
        places = {text: (one - least) / span if most > least else 0.5 for text, one in scaled.items()}
        return places, f"{low:.3g}", f"{high:.3g}"
    texts = sorted({str(value) for value in values})
    span = max(1, len(texts) - 1)
    places = {text: index / span if len(texts) > 1 else 0.5 for index, text in enumerate(texts)}
    return places, texts[0], texts[-1]
