"""How the logs of training look on a screen: a row for each, with the keys above the first and every so many after it.

A row is half as wide as the keys and values of a line, so it fits into 80 columns, and numbers of one key stand below
each other. Only what a training loop logs again and again is a row: numbers, the loss among them. Everything else is a
line (``telemetry.log_lines``), and so is what does not fit.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping

from rich.cells import cell_len

from raytrainer.telemetry.formatting import format_value
from raytrainer.telemetry.log_lines import HIDDEN, is_broken, position
from raytrainer.telemetry.paint import Paint

EVERY_ROWS = 12
"""The keys stand above so many rows: fewer than a small terminal, or the page in a notebook, shows."""
_LEAST_COLUMNS = 7
_GAP = "  "


class LogRows:
    """Formats logs one after the other.

    Args:
        paint: Styles.
    """

    def __init__(self, paint: Paint) -> None:
        self._paint = paint
        self._widths: dict[str, int] = {}
        self._keys: tuple[str, ...] = ()
        self._rows_left = 0

    def restart(self) -> None:
        """The next row stands below other things, and gets the keys above it."""
        self._rows_left = 0

    def format(self, step: int, max_steps: int, logs: Mapping[str, object], width: int) -> str | None:
        """Return the row of a log, below the keys if they are due.

        Args:
            step: The current step.
            max_steps: Number of steps of the run.
            logs: Name -> value.
            width: Available width [columns].

        Returns:
            One line or two; None if this is no row.
        """
        if "loss" not in logs:
            return None
        cells: dict[str, str] = {}
        for key, value in logs.items():
            if key in HIDDEN:
                continue
            if not isinstance(value, numbers.Real):
                return None
            cells[key] = f"{float(value):.3f}" if key == "epoch" else format_value(value)
        keys = tuple(cells)
        for key, text in cells.items():
            columns = max(len(text), cell_len(key), _LEAST_COLUMNS)
            if columns > self._widths.get(key, 0):
                self._widths[key] = columns
                self._rows_left = 0
        prefix = position(step, max_steps).rstrip()
        if len(prefix) + sum(self._widths[key] + len(_GAP) for key in keys) > width:
            return None
        row = self._paint.dim(prefix) + "".join(
            _GAP + self._cell(text, self._widths[key], logs[key]) for key, text in cells.items()
        )
        if keys == self._keys and self._rows_left > 0:
            self._rows_left -= 1
            return row
        self._keys, self._rows_left = keys, EVERY_ROWS - 1
        return f"{self._heading(len(prefix))}\n{row}"

    def _cell(self, text: str, columns: int, value: object) -> str:
        blanks = " " * (columns - len(text))
        return blanks + (self._paint("bold yellow", text) if is_broken(value) else text)

    def _heading(self, indent: int) -> str:
        titles = "".join(_GAP + " " * (self._widths[key] - cell_len(key)) + key for key in self._keys)
        return " " * indent + self._paint.bold(titles)
