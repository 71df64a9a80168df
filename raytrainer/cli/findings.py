"""What ``raytrainer doctor`` found, and how it is shown in 80 columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raytrainer.telemetry.formatting import wrapped
from raytrainer.telemetry.paint import Glyphs, Paint

State = Literal["ok", "note", "warning", "bad"]
_WHAT_COLUMNS = 14


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    section: str
    what: str
    state: State
    """``bad``: it keeps runs from working. ``warning``: look at it. ``note``: a limit that harms nothing."""
    text: str


class FindingLines:
    """Findings as lines, under a heading for each section.

    Args:
        width: Available width [columns].
        glyphs: Of the terminal.
        paint: Colors.
    """

    def __init__(self, *, width: int, glyphs: Glyphs, paint: Paint) -> None:
        self._width = width
        self._paint = paint
        self._section: str | None = None
        self._marks = {
            "ok": paint.good(glyphs.ok),
            "note": paint.dim(glyphs.dot),
            "warning": paint.warn("!"),
            "bad": paint.warn(glyphs.bad),
        }

    def of(self, finding: Finding) -> list[str]:
        """The lines of the next finding; those of a section follow each other."""
        lines: list[str] = []
        if finding.section != self._section:
            self._section = finding.section
            lines = ["", self._paint.bold(finding.section)]
        indent = " " * (_WHAT_COLUMNS + 4)
        first, *others = wrapped(finding.text, max(20, self._width - len(indent)))
        lines.append(f"  {self._marks[finding.state]} {finding.what:<{_WHAT_COLUMNS}}{first}")
        return lines + [indent + line for line in others]
