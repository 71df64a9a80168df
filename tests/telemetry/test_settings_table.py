"""The table of requested and engaged settings."""

from __future__ import annotations

from rich.cells import cell_len

from raytrainer.telemetry.events import EngagedRow
from raytrainer.telemetry.paint import ASCII, UNICODE, Paint
from raytrainer.telemetry.settings_table import engaged_table

ROWS = [
    EngagedRow(what="workers", requested="2", engaged="2 (1 node, cpu)"),
    EngagedRow(what="precision", requested="bf16", engaged="fp32", ok=False),
]
LONG = EngagedRow(what="optimizer", requested="adamw_torch " * 9, engaged="torch.optim.AdamW," * 9)


def test_the_table_is_drawn_with_boxes():
    assert engaged_table(ROWS).split("\n") == [
        "╭───────────┬───────────┬───────────────────╮",
        "│           │ requested │ engaged           │",
        "├───────────┼───────────┼───────────────────┤",
        "│ workers   │ 2         │ ✓ 2 (1 node, cpu) │",
        "│ precision │ bf16      │ ✗ fp32            │",
        "╰───────────┴───────────┴───────────────────╯",
    ]


def test_without_utf8_the_table_is_ascii_and_still_aligned():
    table = engaged_table(ROWS, glyphs=ASCII)
    assert table.isascii()
    assert len({len(line) for line in table.split("\n")}) == 1
    assert "!! fp32" in table


def test_long_cells_wrap_and_lose_nothing():
    table = engaged_table([*ROWS, LONG])
    assert {cell_len(line) for line in table.split("\n")} == {100}
    assert table.count("AdamW") + table.count("Adam\n") >= 8
    assert table.count("adamw_torch") == 9


def test_a_narrow_terminal_gets_a_narrow_table():
    assert {cell_len(line) for line in engaged_table([*ROWS, LONG], width=60).split("\n")} == {60}


def test_in_50_columns_what_applies_is_not_broken_within_words():
    rows = [
        EngagedRow(what="global batch", requested="4 x 1 x 2", engaged="8 samples a step"),
        EngagedRow(what="backend", requested="data parallel", engaged="DistributedDataParallel (gloo)"),
        EngagedRow(what="optimizer", requested="adamw_torch_fused", engaged="AdamW (fused), 18 parameters"),
    ]
    for glyphs in (UNICODE, ASCII):
        table = engaged_table(rows, width=50, glyphs=glyphs)
        assert max(map(cell_len, table.split("\n"))) <= 50
        assert "DistributedDataParallel" in table


def test_wide_characters_keep_the_edges_aligned():
    rows = [*ROWS, EngagedRow(what="훈련", requested="가나다" * 20, engaged="라마바" * 20)]
    assert len({cell_len(line) for line in engaged_table(rows).split("\n")}) == 1


def test_no_rows_give_a_header_alone():
    assert len(engaged_table([]).split("\n")) == 4


def test_a_mismatch_is_seen_in_color_and_text_is_never_markup():
    rows = [EngagedRow(what="a", requested="[bold]x[/]", engaged="[red]y", ok=False)]
    assert "[bold]x[/]" in engaged_table(rows)
    assert "!! [red]y" in engaged_table(rows, glyphs=ASCII)
    assert "\x1b[33m" in engaged_table(rows, paint=Paint(on=True))
