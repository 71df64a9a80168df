"""How the table of requested and applied settings looks.

Every run prints it before its first step, so that no setting falls back unnoticed. Decides layout only: what the rows
say, and that a mismatch ends the run, is decided where the rows are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from raytrainer.telemetry.events import EngagedRow
from raytrainer.telemetry.paint import UNICODE, Glyphs, Paint, drawn

MAX_WIDTH = 100
"""The table is never wider [columns]; longer cells are wrapped."""
NARROW = 60
"""Below this width [columns] lines around the cells would take the room that words need."""
_GAP = 2
_FRAME = 10
"""What the lines of the box and the blanks beside them take [columns]."""
_LONGEST_WORD = 25
"""A longer word of the engaged column may be broken [columns]."""


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
        Lines without a trailing newline; every line has the same width where there is room for a box.
    """
    width = min(width, MAX_WIDTH)
    table = Table(box=glyphs.box, border_style="dim", header_style="bold")
    if width < NARROW:
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    frame = 2 * _GAP if width < NARROW else _FRAME
    requested = _room_for_requested(rows, width - frame, glyphs)
    for title in ("", "requested", "engaged"):
        table.add_column(title, overflow="fold", max_width=requested if title == "requested" else None)
    for row in rows:
        mark = (glyphs.ok, "green") if row.ok else (glyphs.bad, "bold")
        engaged = Text.assemble(mark, f" {row.engaged}")
        table.add_row(row.what, row.requested, engaged, style=None if row.ok else "yellow")
    return drawn(table, width=width, paint=paint or Paint(on=False), utf8=glyphs is UNICODE)


def _room_for_requested(rows: Sequence[EngagedRow], width: int, glyphs: Glyphs) -> int:
    """How wide the column may be [columns], so that words beside it, which say what applies, are whole."""
    whats = max((cell_len(row.what) for row in rows), default=0)
    words = max((cell_len(word) for row in rows for word in row.engaged.split()), default=0)
    mark = max(len(glyphs.ok), len(glyphs.bad)) + 1
    return max(len("requested"), width - whats - min(words, _LONGEST_WORD) - mark)
