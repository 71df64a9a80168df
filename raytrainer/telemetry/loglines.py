"""How one ``Trainer.log`` call looks as a line: ``40/300  loss=0.5812  learning_rate=4.333e-05  epoch=0.4``.

``key=value`` stays grep-able and parses as logfmt; values of one key are padded to the widest seen so far, so that
columns align. Keys appear exactly as they were logged. ``total_flos`` is left out, as transformers leaves it out of
what it prints. Pure apart from the widths that it remembers.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping

from raytrainer.telemetry.formatting import Paint, display_width, format_value

_HIDDEN = frozenset({"total_flos"})

_FLOAT_COLUMNS = 6
"""Room for 0.5812 from the first line on."""


class LogLines:
    """Formats logs one after the other.

    Args:
        paint: Colors.
        width: Where to break long lines [columns]; None writes one line for each call.
    """

    def __init__(self, paint: Paint, width: int | None = None) -> None:
        self.width = width
        self._paint = paint
        self._widths: dict[str, int] = {}

    def format(self, step: int, max_steps: int, logs: Mapping[str, object]) -> str:
        """Return the line of a log.

        Args:
            step: The current step.
            max_steps: Number of steps of the run.
            logs: Name -> value.

        Returns:
            One line, or several if it is broken at ``width``; empty if there is nothing to show.
        """
        items = [self._item(key, value) for key, value in logs.items() if key not in _HIDDEN]
        if not items:
            return ""
        prefix = _position(step, max_steps)
        indent = " " * display_width(prefix)
        lines: list[str] = []
        line = self._paint.dim(prefix)
        used = len(indent)
        for item in items:
            columns = display_width(item)
            if self.width is not None and used > len(indent) and used + len(item.rstrip()) > self.width:
                lines.append(line.rstrip())
                line, used = indent, len(indent)
            line += item + "  "
            used += columns + 2
        lines.append(line.rstrip())
        return "\n".join(lines)

    def _item(self, key: str, value: object) -> str:
        text = format_value(value)
        columns = display_width(text)
        least = _FLOAT_COLUMNS if isinstance(value, float) else 0
        self._widths[key] = widest = max(columns, least, self._widths.get(key, 0))
        is_broken = isinstance(value, numbers.Real) and not math.isfinite(value)
        shown = self._paint.bold(self._paint.warn(text)) if is_broken else text
        return f"{self._paint.dim(key + '=')}{shown}{' ' * (widest - columns)}"


def _position(step: int, max_steps: int) -> str:
    if max_steps:
        return f"{step:>{len(str(max_steps))}}/{max_steps}  "
    return f"{step}  " if step else ""
