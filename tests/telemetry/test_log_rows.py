"""How the logs of training look on a screen."""

from __future__ import annotations

import pytest

from raytrainer.telemetry.log_rows import EVERY_ROWS, LogRows
from raytrainer.telemetry.paint import Paint
from tests.telemetry.terminal import without_color

LOGS = {"loss": 0.5812, "grad_norm": 12.31, "learning_rate": 4.3333e-05, "epoch": 0.4}


@pytest.fixture
def rows():
    return LogRows(Paint(on=False))


def test_the_keys_stand_above_the_values(rows):
    assert rows.format(40, 300, LOGS, 80).split("\n") == [
        "            loss  grad_norm  learning_rate    epoch",
        " 40/300   0.5812      12.31      4.333e-05    0.400",
    ]
    assert rows.format(60, 300, LOGS, 80) == " 60/300   0.5812      12.31      4.333e-05    0.400"


def test_the_keys_come_again_after_so_many_rows(rows):
    lines = [rows.format(step, 300, LOGS, 80).count("\n") for step in range(EVERY_ROWS * 2 + 1)]
    assert [index for index, count in enumerate(lines) if count] == [0, EVERY_ROWS, 2 * EVERY_ROWS]


def test_other_keys_or_wider_values_come_with_their_keys(rows):
    rows.format(1, 300, LOGS, 80)
    assert "\n" in rows.format(2, 300, {**LOGS, "tokens": 7}, 80)
    assert "\n" in rows.format(3, 300, LOGS, 80)
    wide = rows.format(4, 300, {**LOGS, "loss": 1.5e-9}, 80).split("\n")
    assert len(wide) == 2
    assert len(wide[0]) == len(wide[1])
    assert "\n" not in rows.format(5, 300, LOGS, 80)


def test_after_a_restart_the_keys_come_again(rows):
    rows.format(1, 300, LOGS, 80)
    rows.restart()
    assert "\n" in rows.format(2, 300, LOGS, 80)


@pytest.mark.parametrize("logs", [{"eval_loss": 0.5}, {"loss": 0.5, "note": "text"}, {"loss": None}])
def test_what_is_no_row_of_numbers_with_a_loss_is_left_to_a_line(rows, logs):
    assert rows.format(1, 2, logs, 80) is None


def test_what_does_not_fit_is_left_to_a_line(rows):
    heading, row = rows.format(40, 300, LOGS, 51).split("\n")
    assert len(heading) == len(row) == 51
    assert rows.format(40, 300, LOGS, 50) is None


def test_wide_characters_and_total_flos(rows):
    heading, row = rows.format(1, 2, {"loss": 0.5, "정확도가높다": 0.25, "total_flos": 1.0}, 80).split("\n")
    assert heading.endswith("정확도가높다")
    assert row.endswith("        0.2500")
    assert "total_flos" not in heading


def test_nan_stands_out_and_stays_nan():
    row = LogRows(Paint(on=True)).format(1, 2, {"loss": float("nan")}, 80)
    assert "\x1b[1;33mnan" in row
    assert without_color(row).split("\n") == ["        loss", "1/2      nan"]
