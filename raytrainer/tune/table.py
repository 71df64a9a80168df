"""The table of a sweep: one row for each trial, live in a terminal or notebook, and now and then in a log file."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raytrainer.telemetry.formatting import format_duration, format_value, shorten_path
from raytrainer.telemetry.notebook_cell import NotebookCell, in_notebook
from raytrainer.tune.objective import Objective
from raytrainer.tune.results import SweepResult, TrialResult

LIVE_INTERVAL_S = 0.25
"""In a terminal, the table is drawn at most this often [s]."""
CELL_INTERVAL_S = 1.0
"""In a notebook [s], which keeps what is sent to it."""
PLAIN_INTERVAL_S = 60.0
"""In a log file, the table is printed at most this often [s]."""
MAX_ROWS = 20
WIDTH = 100
"""Columns where there is no terminal."""

_TITLE_WIDTH = 11

_ORDER = ("running", "paused", "pending")
_STYLES = {
    "running": "bold",
    "failed": "red",
    "stopped": "dim",
    "finished": "",
    "ended early": "",
    "paused": "dim",
    "pending": "dim",
    "interrupted": "dim",
}


class SweepTable:
    """Shows a sweep while it runs, and once more when it has ended.

    Args:
        objective: What trials report.
        console: Where to print; stdout by default.
        clock: A monotonic clock [s].
    """

    def __init__(
        self,
        objective: Objective,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        plain = console or Console(force_jupyter=False)
        self._console = plain if plain.is_terminal or console is not None else Console(width=WIDTH)
        self._cell = NotebookCell(WIDTH) if console is None and in_notebook() else None
        self._objective = objective
        self._clock = clock
        self._live: Live | None = None
        self._printed_at_s = clock()
        self._num_ended = 0

    def show(self, result: SweepResult) -> None:
        """Show the sweep as it stands; called often."""
        if self._cell is not None:
            if self._is_due(CELL_INTERVAL_S):
                self._cell.show(render(result, self._objective))
            return
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
            if self._is_due(LIVE_INTERVAL_S):
                self._live.update(render(result, self._objective), refresh=True)
            return
        ended = sum(trial.state not in _ORDER for trial in result.trials)
        if ended > self._num_ended and self._is_due(PLAIN_INTERVAL_S):
            self._num_ended = ended
            self._console.print(render(result, self._objective))

    def _is_due(self, interval_s: float) -> bool:
        if self._clock() - self._printed_at_s < interval_s:
            return False
        self._printed_at_s = self._clock()
        return True

    def close(self, result: SweepResult) -> None:
        """Show how the sweep ended."""
        if self._cell is not None:
            self._cell.show(render(result, self._objective))
            return
        if self._live is not None:
            self._live.stop()
        self._console.print(render(result, self._objective))


def render(result: SweepResult, objective: Objective) -> Group:
    """Draw a sweep.

    Args:
        result: The sweep.
        objective: What trials report.
    """
    varied = varying(result.trials)
    best = {trial.run_id for trial in result.best}
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for title in ("", "trial", "state"):
        table.add_column(title, no_wrap=True)
    for title in (*varied, "step", *objective.names, "best", "time"):
        table.add_column(_title(title), justify="right", vertical="bottom")
    shown = _shown(result)
    for trial in shown:
        last = trial.evaluations[-1].objectives if trial.evaluations else None
        counted = trial.counted("best", result.modes)
        table.add_row(
            "★" if trial.run_id in best else "",
            trial.run_id,
            trial.state,
            *(format_value(trial.hyperparameters.get(name, "")) for name in varied),
            str(trial.step) if trial.evaluations else "",
            *([_number(one) for one in last] if last else [""] * len(objective.names)),
            _number(counted.objectives[0]) if counted is not None else "",
            format_duration(trial.seconds) if trial.seconds else "",
            style=_STYLES.get(trial.state, ""),
        )
    left = len(result.trials) - len(shown)
    rest = [Text(f"and {left} more trials, all in sweep.json", style="dim")] if left else []
    errors = [
        Text(f"{trial.run_id} failed: {(trial.error or '').splitlines()[0][:160]}", style="red")
        for trial in result.trials
        if trial.error
    ][:3]
    return Group(_headline(result), table, *rest, *errors, *_best_lines(result))


def varying(trials: list[TrialResult]) -> list[str]:
    """The hyperparameters that are not the same in all trials, in the order of the space."""
    names: dict[str, set[str]] = {}
    for trial in trials:
        for name, value in trial.hyperparameters.items():
            names.setdefault(name, set()).add(repr(value))
    return [name for name, values in names.items() if len(values) > 1 or len(trials) == 1]


def _headline(result: SweepResult) -> Text:
    counts: dict[str, int] = {}
    for trial in result.trials:
        counts[trial.state] = counts.get(trial.state, 0) + 1
    states = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    return Text(
        f"sweep {shorten_path(result.path)}\n{len(result.trials)} trials: {states or 'none yet'} · "
        f"{format_duration(result.seconds)}"
    )


def _best_lines(result: SweepResult) -> list[Text]:
    lines: list[Text] = []
    for trial in result.best[:3]:
        objectives = ", ".join(_number(one) for one in result.objectives(trial) or [])
        values = ", ".join(f"{name}={format_value(value)}" for name, value in trial.hyperparameters.items())
        lines.append(Text(f"best ({result.scope} evaluation): {trial.run_id}  {objectives}  with {values}"))
    return lines


def _shown(result: SweepResult) -> list[TrialResult]:
    active = [trial for state in _ORDER for trial in result.trials if trial.state == state]
    ranked = [trial for trial in result.ranked if trial not in active]
    others = [trial for trial in result.trials if trial not in active and trial not in ranked]
    return (active + ranked + others)[:MAX_ROWS]


def _title(name: str) -> str:
    """A title in lines that are hardly wider than its values."""
    return "\n".join(textwrap.wrap(name.replace("_", " "), _TITLE_WIDTH))


def _number(value: Any) -> str:
    return format_value(value) if math.isfinite(value) else "NaN"
