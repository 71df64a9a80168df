"""The picture of a sweep: which hyperparameters gave which objective, and how the trials got there.

Left, parallel coordinates: one line for each trial through its hyperparameters to its objective. Right, the objective
of each trial over its steps. The better the objective the darker the line, in a map that reads without colors.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raytrainer.telemetry.formatting import format_value
from raytrainer.tune.results import SweepResult, TrialResult
from raytrainer.tune.table import varying

logger = logging.getLogger(__name__)

PICTURE_NAME = "sweep.png"
_MAX_AXES = 7
_LOG_RATIO = 20.0
"""An axis whose largest value is so many times its smallest is logarithmic."""


class Axis:
    """Where the values of one hyperparameter are on an axis from 0 to 1.

    Args:
        name: Its title.
        values: Of all trials.
    """

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.name = name
        self.is_numeric = all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
        if self.is_numeric:
            finite = [one for one in values if math.isfinite(one)] or [0]
            low, high = min(finite), max(finite)
            self.is_log = low > 0 and high / low >= _LOG_RATIO
            self._low, self._high = self._scaled(low), self._scaled(high)
            self.ticks: list[Any] = [low, high] if low < high else [low]
        else:
            self.is_log = False
            self.ticks = sorted({str(one) for one in values})

    def at(self, value: Any) -> float:
        """The place of a value."""
        if not self.is_numeric:
            return (self.ticks.index(str(value)) + 0.5) / len(self.ticks)
        if self._high == self._low:
            return 0.5
        return (self._scaled(float(value)) - self._low) / (self._high - self._low)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.is_log else value


def draw(result: SweepResult) -> Path | None:
    """Draw a sweep into ``sweep.png`` of its directory.

    Returns:
        The file; None if no trial gave a number, or matplotlib is not installed.
    """
    trials = result.ranked
    if not trials:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("No picture of the sweep was drawn: pip install 'raytrainer[tune]' brings matplotlib.")
        return None
    figure: Any = Figure(figsize=(13, 5.2), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    colors = _colors(len(trials))
    _draw_coordinates(left, result, trials, colors)
    _draw_curves(right, result, trials, colors)
    figure.suptitle(
        f"{Path(result.path).name}: {len(result.trials)} trials, best {format_value(_first(result, trials[0]))}"
    )
    path = Path(result.path) / PICTURE_NAME
    figure.savefig(path)
    return path


def _colors(count: int) -> list[Any]:
    """Dark for the best, pale for the worst."""
    from matplotlib import colormaps

    shades: Any = colormaps["viridis"]
    return [shades(0.9 * rank / max(count - 1, 1)) for rank in range(count)]


def _draw_coordinates(axes: Any, result: SweepResult, trials: list[TrialResult], colors: list[Any]) -> None:
    names = varying(trials)[:_MAX_AXES]
    lines = [Axis(name, [trial.hyperparameters.get(name) for trial in trials]) for name in names]
    lines.append(Axis(_objective_title(result), [_first(result, trial) for trial in trials]))
    for rank in reversed(range(len(trials))):
        trial = trials[rank]
        values = [*(trial.hyperparameters.get(name) for name in names), _first(result, trial)]
        places = [line.at(value) for line, value in zip(lines, values, strict=True)]
        axes.plot(
            range(len(lines)),
            places,
            color=colors[rank],
            linewidth=2.6 if rank == 0 else 1.2,
            marker="o",
            markersize=4,
            zorder=3 if rank == 0 else 2,
        )
    for place, line in enumerate(lines):
        axes.axvline(place, color="0.75", linewidth=1, zorder=1)
        for tick in line.ticks:
            axes.annotate(
                format_value(tick) if isinstance(tick, float) else str(tick),
                (place, line.at(tick)),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
                zorder=4,
            )
    axes.set_xticks(range(len(lines)), [_wrapped(line) for line in lines], fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(-0.06, 1.06)
    axes.set_xlim(-0.15, len(lines) - 0.55)
    axes.spines[:].set_visible(False)
    axes.set_title("hyperparameters and objective; the best trial is the thick line", fontsize=9, loc="left")


def _draw_curves(axes: Any, result: SweepResult, trials: list[TrialResult], colors: list[Any]) -> None:
    for rank in reversed(range(len(trials))):
        steps = [one.step for one in trials[rank].evaluations if math.isfinite(one.objectives[0])]
        values = [one.objectives[0] for one in trials[rank].evaluations if math.isfinite(one.objectives[0])]
        axes.plot(
            steps,
            values,
            color=colors[rank],
            linewidth=2.6 if rank == 0 else 1.2,
            marker="o",
            markersize=4,
            label=trials[rank].run_id,
        )
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1][:8], labels[::-1][:8], fontsize=7, frameon=False)
    axes.set_xlabel("step")
    axes.set_ylabel(_objective_title(result), fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.set_title("objective over steps", fontsize=9, loc="left")


def _objective_title(result: SweepResult) -> str:
    return f"objective ({result.directions[0]}, {result.scope})"


def _first(result: SweepResult, trial: TrialResult) -> float:
    return (result.objectives(trial) or [math.nan])[0]


def _wrapped(line: Axis) -> str:
    """A title that fits under its axis."""
    words = line.name.replace("_", " ").split()
    half = (len(words) + 1) // 2
    name = " ".join(words[:half]) + ("\n" + " ".join(words[half:]) if words[half:] else "")
    return name + (" (log)" if line.is_log else "")
