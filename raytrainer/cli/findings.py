"""What ``raytrainer doctor`` found, and how it is shown in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable
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


def lines_of(findings: Iterable[Finding], *, width: int, glyphs: Glyphs, paint: Paint) -> list[str]:
    """Findings as lines, under a heading for each section.

    Args:
        findings: Those of a section follow each other.
        width: Available width [columns].
        glyphs: Of the terminal.
        paint: Colors.
    """
    marks = {
        "ok": paint.good(glyphs.ok),
        "note": paint.dim(glyphs.dot),
        "warning": paint.warn("!"),
        "bad": paint.warn(glyphs.bad),
    }
    lines: list[str] = []
    section = None
    for finding in findings:
        if finding.section != section:
            section = finding.section
            lines += ["", paint.bold(section)] if lines else [paint.bold(section)]
        indent = " " * (_WHAT_COLUMNS + 4)
        first, *others = wrapped(finding.text, max(20, width - len(indent)))
        lines.append(f"  {marks[finding.state]} {finding.what:<{_WHAT_COLUMNS}}{first}")
        lines += [indent + line for line in others]
    return lines
