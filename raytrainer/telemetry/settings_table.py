"""How the table of requested and applied settings looks.

Every run prints it before its first step, so that no setting falls back unnoticed. Decides layout only: what the rows
say, and that a mismatch ends the run, is decided where the rows are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from raytrainer.telemetry.events import EngagedRow
from raytrainer.telemetry.paint import UNICODE, Glyphs, Paint, drawn

MAX_WIDTH = 100
"""The table is never wider [columns]; longer cells are wrapped."""


def engaged_table(
    rows: Sequence[EngagedRow],
    *,
    width: int = MAX_WIDTH,
    glyphs: Glyphs = UNICODE,
    paint: Paint | None = None,
) -> str:
    """Draw rows of what | requested | engaged.

    Args:
        rows: The rows, in display order.
        width: Available width [columns]; at most ``MAX_WIDTH`` are used.
        glyphs: What can be shown.
        paint: Styles; none by default.

    Returns:
        Lines without a trailing newline; every line has the same width.
    """
    table = Table(box=glyphs.box, border_style="dim", header_style="bold")
    for title in ("", "requested", "engaged"):
        table.add_column(title, overflow="fold")
    for row in rows:
        mark = (glyphs.ok, "green") if row.ok else (glyphs.bad, "bold")
        engaged = Text.assemble(mark, f" {row.engaged}")
        table.add_row(row.what, row.requested, engaged, style=None if row.ok else "yellow")
    return drawn(table, width=min(width, MAX_WIDTH), paint=paint or Paint(on=False), utf8=glyphs is UNICODE)
