"""The table of requested and engaged settings."""

from __future__ import annotations

from raytrainer.telemetry.events import EngagedRow
from raytrainer.telemetry.formatting import display_width
from raytrainer.telemetry.settings_table import engaged_table

ROWS = [
    EngagedRow(what="workers", requested="2", engaged="2 (1 node, cpu)"),
    EngagedRow(what="precision", requested="bf16", engaged="fp32", ok=False),
]
LONG = EngagedRow(what="optimizer", requested="adamw_torch " * 9, engaged="torch.optim.AdamW," * 9)


def test_the_table_is_drawn_with_boxes():
    assert engaged_table(ROWS, utf8=True).split("\n") == [
        "┌───────────┬───────────┬───────────────────┐",
        "│           │ requested │ engaged           │",
        "├───────────┼───────────┼───────────────────┤",
        "│ workers   │ 2         │ ✓ 2 (1 node, cpu) │",
        "│ precision │ bf16      │ ✗ fp32            │",
        "└───────────┴───────────┴───────────────────┘",
    ]


def test_without_utf8_the_table_is_ascii_and_still_aligned():
    table = engaged_table(ROWS, utf8=False)
    assert table.isascii()
    assert len({len(line) for line in table.split("\n")}) == 1
    assert "!! fp32" in table


def test_long_cells_wrap_and_lose_nothing():
    table = engaged_table([*ROWS, LONG], utf8=True)
    assert {display_width(line) for line in table.split("\n")} == {100}
    assert table.count("AdamW") + table.count("Adam\n") >= 8
    assert table.count("adamw_torch") == 9


def test_a_narrow_terminal_gets_a_narrow_table():
    assert {
        display_width(line) for line in engaged_table([*ROWS, LONG], width=60, utf8=True).split("\n")
    } == {60}


def test_wide_characters_keep_the_edges_aligned():
    rows = [*ROWS, EngagedRow(what="훈련", requested="가나다" * 20, engaged="라마바" * 20)]
    assert len({display_width(line) for line in engaged_table(rows, utf8=True).split("\n")}) == 1


def test_no_rows_give_a_header_alone():
    assert len(engaged_table([], utf8=True).split("\n")) == 4
