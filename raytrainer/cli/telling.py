"""How ``raytrainer doctor`` tells what it finds: at once, and what it waits for on a line that goes away.

What it looks at takes seconds, most of it imports, so each finding is shown when it is known.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from raytrainer.cli.findings import Finding, FindingLines
from raytrainer.telemetry.formatting import wrapped
from raytrainer.telemetry.live_line import LiveLine
from raytrainer.telemetry.paint import Paint, glyphs_for, is_screen, is_terminal, wants_style

_WIDTH = 80


class Telling:
    """Shows findings on stdout.

    Args:
        findings: Gets all of them.
        is_shown: Show them; otherwise they are only kept.
    """

    def __init__(self, findings: list[Finding], *, is_shown: bool) -> None:
        self._findings = findings
        self._is_shown = is_shown
        self._width = _WIDTH
        if is_screen(sys.stdout):
            self._width = min(_WIDTH, shutil.get_terminal_size().columns)
        self._paint = Paint(wants_style(sys.stdout))
        self._lines = FindingLines(width=self._width, glyphs=glyphs_for(sys.stdout), paint=self._paint)
        self._live = LiveLine(sys.stderr) if is_shown and is_terminal(sys.stderr) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.hide()

    def begin(self, text: str) -> None:
        """The first line: what is looked at."""
        self._print(wrapped(text, self._width))

    def wait(self, text: str) -> None:
        """Say what takes long now, where a line can be taken back."""
        if self._live is not None:
            self._live.show(f"  {text} ..."[: shutil.get_terminal_size().columns - 1])

    def tell(self, findings: Iterable[Finding]) -> None:
        """Show findings, each when it comes."""
        for finding in findings:
            self._findings.append(finding)
            self._print(self._lines.of(finding))

    def _print(self, lines: Iterable[str]) -> None:
        if self._is_shown:
            print("\n".join(lines), flush=True)
