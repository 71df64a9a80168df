"""What a notebook shows of a run: one output that is replaced, with the table, the newest lines and the progress.

A stream of lines would push the notebook away from whoever reads it, and stay in the file. So logs and saves pass: the
newest are shown, all of them are in ``metrics.jsonl`` and ``events.jsonl``. Tables, warnings and the block at the end
stay. Each cell that is run gets an output of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from raytrainer.telemetry.notebook_cell import NotebookCell

WIDTH = 100
"""Columns of a line."""
MOST_LINES = 16
"""So many passing lines are shown."""
INTERVAL_S = 0.25
"""The output changes at most this often [s]: each change goes through the browser."""


class NotebookPage:
    """The output of the cell that runs.

    Args:
        clock: A monotonic clock [s].
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cell = NotebookCell(WIDTH)
        self._number: int | None = None
        self._kept: list[tuple[str, bool]] = []
        self._passed = 0
        self._heading = ""
        """The keys above rows whose first ones have passed."""
        self._line = ""
        self._drawn_at = -INTERVAL_S
        self._is_current = True

    def keep(self, text: str, *, passes: bool = False) -> None:
        """Add a line, or several.

        Args:
            text: Without a newline at its end.
            passes: It is left out when enough of its kind have come after it.
        """
        self._follow_cell()
        self._kept.append((text, passes))
        passing = [index for index, (_, one_passes) in enumerate(self._kept) if one_passes]
        if len(passing) > MOST_LINES:
            gone, _ = self._kept.pop(passing[0])
            self._passed += 1
            self._heading = heading_of(gone) or self._heading
        self._draw(now=not passes)

    def show(self, line: str) -> None:
        """Show the progress below all else."""
        self._follow_cell()
        self._line = line
        self._draw()

    def hide(self) -> None:
        """Take the progress away, and show what was held back."""
        if self._line or not self._is_current:
            self._line = ""
            self._draw(now=True)

    def _follow_cell(self) -> None:
        """Begin anew when another cell runs."""
        shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        number = getattr(shell, "execution_count", None)
        if number != self._number:
            self._number = number
            self._cell = NotebookCell(WIDTH)
            self._kept.clear()
            self._passed, self._heading, self._line, self._drawn_at = 0, "", "", -INTERVAL_S

    def _draw(self, *, now: bool = False) -> None:
        time_s = self._clock()
        self._is_current = now or time_s - self._drawn_at >= INTERVAL_S
        if self._is_current:
            self._drawn_at = time_s
            self._cell.show_text("\n".join(self._lines()))

    def _lines(self) -> list[str]:
        lines: list[str] = []
        left_out = self._passed
        for text, passes in self._kept:
            if passes and left_out:
                s, are = ("", "is") if left_out == 1 else ("s", "are")
                lines.append(f"... {left_out} earlier line{s} {are} in metrics.jsonl and events.jsonl")
                left_out = 0
                if self._heading and not heading_of(text):
                    lines.append(self._heading)
            lines.append(text)
        return [*lines, self._line] if self._line else lines


def heading_of(text: str) -> str:
    """The keys that stand above the row of a log; empty where none do."""
    first, newline, _ = text.partition("\n")
    return first if newline and "loss" in first.split() else ""
