"""How logs are formatted as a line."""

from __future__ import annotations

from raytrainer.telemetry.formatting import Paint, display_width, without_color
from raytrainer.telemetry.loglines import LogLines

PLAIN = Paint(on=False)
LOGS = {"loss": 0.5812, "grad_norm": 12.31, "learning_rate": 4.3333e-05, "epoch": 0.4}


def test_a_line_has_the_position_and_the_logged_keys():
    assert LogLines(PLAIN).format(40, 300, LOGS) == (
        " 40/300  loss=0.5812  grad_norm=12.31   learning_rate=4.333e-05  epoch=0.4000"
    )


def test_columns_of_later_lines_stand_below_each_other():
    lines = LogLines(PLAIN)
    lines.format(40, 300, LOGS)
    before = lines.format(60, 300, {**LOGS, "grad_norm": 123456.7})
    after = lines.format(60, 300, LOGS)
    assert before.index("learning_rate") == after.index("learning_rate")


def test_long_lines_break_between_items_below_the_first():
    logs = {f"eval_metric_{index}": 0.5 for index in range(9)}
    broken = LogLines(PLAIN, width=80).format(5, 10, logs).split("\n")
    assert len(broken) == 3
    assert all(display_width(line) <= 80 for line in broken)
    assert broken[1].startswith("       eval_metric_")


def test_without_a_width_there_is_one_line():
    assert "\n" not in LogLines(PLAIN).format(5, 10, {f"metric_{index}": 0.5 for index in range(50)})


def test_total_flos_is_not_shown():
    assert LogLines(PLAIN).format(1, 2, {"total_flos": 3.0}) == ""


def test_an_evaluation_without_training_has_no_position():
    assert LogLines(PLAIN).format(0, 0, {"eval_loss": 0.5}) == "eval_loss=0.5000"


def test_nan_stands_out_and_stays_nan():
    line = LogLines(Paint(on=True)).format(1, 2, {"loss": float("nan")})
    assert "\x1b[33mnan" in line
    assert without_color(line) == "1/2  loss=nan"
