"""How the table of requested and applied settings looks.

Every run prints it before its first step, so that no setting falls back unnoticed. Decides layout only: what the rows
say, and that a mismatch ends the run, is decided where the rows are made.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from raytrainer.telemetry.events import EngagedRow
from raytrainer.telemetry.formatting import ASCII, UNICODE, Glyphs, display_width, glyphs_for, pad

MAX_WIDTH = 100
"""The table is never wider [columns]; longer cells are wrapped."""

MIN_COLUMN = 9


def engaged_table(rows: Sequence[EngagedRow], *, width: int = MAX_WIDTH, utf8: bool | None = None) -> str:
    """Draw rows of what | requested | engaged.

    Args:
        rows: The rows, in display order.
        width: Available width [columns]; at most ``MAX_WIDTH`` are used.
        utf8: Whether box characters can be shown; None looks at ``sys.stdout``.

    Returns:
        Lines without a trailing newline; every line has the same width.
    """
    glyphs = glyphs_for(sys.stdout) if utf8 is None else UNICODE if utf8 else ASCII
    cells = [("", "requested", "engaged")]
    cells += [
        (row.what, row.requested, f"{glyphs.ok if row.ok else glyphs.bad} {row.engaged}") for row in rows
    ]
    widths = _column_widths(cells, min(width, MAX_WIDTH))
    lines = [_border(widths, glyphs.box[0:4])]
    for index, row_cells in enumerate(cells):
        lines += _row(row_cells, widths, glyphs)
        if index == 0:
            lines.append(_border(widths, glyphs.box[4:8]))
    lines.append(_border(widths, glyphs.box[8:12]))
    return "\n".join(lines)


def _column_widths(cells: Sequence[tuple[str, str, str]], width: int) -> list[int]:
    """The natural width of each column; the widest columns shrink until the table fits."""
    widths = [max(MIN_COLUMN, *(display_width(row[column]) for row in cells)) for column in range(3)]
    too_much = sum(widths) + 10 - width  # 4 edges and 6 blanks
    while too_much > 0 and max(widths) > MIN_COLUMN:
        widths[widths.index(max(widths))] -= 1
        too_much -= 1
    return widths


def _border(widths: Sequence[int], corners: str) -> str:
    left, line, tee, right = corners
    return left + tee.join(line * (column + 2) for column in widths) + right


def _row(cells: tuple[str, str, str], widths: Sequence[int], glyphs: Glyphs) -> list[str]:
    edge = glyphs.box[12]
    columns = [_wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    height = max(len(column) for column in columns)
    return [
        edge
        + edge.join(
            f" {pad(column[line] if line < len(column) else '', width)} "
            for column, width in zip(columns, widths, strict=True)
        )
        + edge
        for line in range(height)
    ]


def _wrap(cell: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns; breaks at spaces, and inside words that are too long."""
    if display_width(cell) <= width:
        return [cell]
    # Wide characters take two columns: wrapping at half the width is safe for them.
    chars = width if cell.isascii() or display_width(cell) == len(cell) else width // 2
    return textwrap.wrap(cell, chars, subsequent_indent="  ") or [""]
