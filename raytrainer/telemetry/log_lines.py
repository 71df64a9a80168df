"""How one ``Trainer.log`` call looks as a line: ``40/300  loss=0.5812  learning_rate=4.333e-05  epoch=0.4``.

``key=value`` stays grep-able and parses as logfmt; values of one key are padded to the widest seen so far, so that
columns align. Keys appear exactly as they were logged. ``total_flos`` is left out, as transformers leaves it out of
what it prints. Pure apart from the widths that it remembers.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping

from rich.cells import cell_len

from raytrainer.telemetry.formatting import format_duration, format_value
from raytrainer.telemetry.paint import Paint

HIDDEN = frozenset({"total_flos"})
SPEED_SUFFIXES = ("_runtime", "_samples_per_second", "_steps_per_second", "_model_preparation_time")

_FLOAT_COLUMNS = 6
"""Room for 0.5812 from the first line on."""


class LogLines:
    """Formats logs one after the other.

    Args:
        paint: Styles.
        width: Where to break long lines [columns]; None writes one line for each call.
    """

    def __init__(self, paint: Paint, width: int | None = None) -> None:
        self.width = width
        self._paint = paint
        self._widths: dict[str, int] = {}
        self._names: dict[str, tuple[str, int]] = {}

    def format(self, step: int, max_steps: int, logs: Mapping[str, object], note: str = "") -> str:
        """Return the line of a log.

        Args:
            step: The current step.
            max_steps: Number of steps of the run.
            logs: Name -> value.
            note: Stands at the end of the line.

        Returns:
            One line, or several if it is broken at ``width``; empty if there is nothing to show.
        """
        items = [self._item(key, value) for key, value in logs.items() if key not in HIDDEN]
        if not items:
            return ""
        if note:
            items.append((self._paint.dim(note), len(note), len(note)))
        prefix = position(step, max_steps)
        indent = " " * len(prefix)
        lines: list[str] = []
        line = self._paint.dim(prefix)
        used = len(indent)
        for item, columns, least in items:
            if self.width is not None and used > len(indent) and used + least > self.width:
                lines.append(line.rstrip())
                line, used = indent, len(indent)
            line += item + "  "
            used += columns + 2
        lines.append(line.rstrip())
        return "\n".join(lines)

    def _item(self, key: str, value: object) -> tuple[str, int, int]:
        """An item, its width, and that without the blanks at its end [columns]."""
        text = format_value(value)
        is_float = isinstance(value, float)
        columns = len(text) if is_float else cell_len(text)
        least = _FLOAT_COLUMNS if is_float else 0
        self._widths[key] = widest = max(columns, least, self._widths.get(key, 0))
        shown = self._paint("bold yellow", text) if is_broken(value) else text
        blanks = widest - columns
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = (self._paint.dim(key + "="), cell_len(key) + 1)
        length = name[1] + columns
        return f"{name[0]}{shown}{' ' * blanks}", length + blanks, length


def position(step: int, max_steps: int) -> str:
    """``40/300`` and two blanks, as wide at every step of a run; empty where there are no steps."""
    if max_steps:
        return f"{step:>{len(str(max_steps))}}/{max_steps}  "
    return f"{step}  " if step else ""


def is_broken(value: object) -> bool:
    """Whether a value is a number that should not be logged: infinite, or none."""
    return isinstance(value, float | numbers.Real) and not math.isfinite(value)  # a float is known at once


def without_speed(logs: Mapping[str, object]) -> tuple[dict[str, object], str]:
    """What an evaluation measured, and how long it took, for people who look at it while it comes.

    Args:
        logs: Of an evaluation.
    """
    kept = {name: one for name, one in logs.items() if name != "epoch" and not name.endswith(SPEED_SUFFIXES)}
    took = next((one for name, one in logs.items() if name.endswith("_runtime")), None)
    return kept, f"({format_duration(float(took))})" if isinstance(took, numbers.Real) else ""
