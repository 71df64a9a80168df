"""How logs are formatted as a line."""

from __future__ import annotations

from rich.cells import cell_len

from raytrainer.telemetry.log_lines import LogLines, without_speed
from raytrainer.telemetry.paint import Paint
from tests.telemetry.terminal import without_color

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
    assert all(cell_len(line) <= 80 for line in broken)
    assert broken[1].startswith("       eval_metric_")


def test_without_a_width_there_is_one_line():
    assert "\n" not in LogLines(PLAIN).format(5, 10, {f"metric_{index}": 0.5 for index in range(50)})


def test_total_flos_is_not_shown():
    assert LogLines(PLAIN).format(1, 2, {"total_flos": 3.0}) == ""


def test_an_evaluation_without_training_has_no_position():
    assert LogLines(PLAIN).format(0, 0, {"eval_loss": 0.5}) == "eval_loss=0.5000"


def test_nan_stands_out_and_stays_nan():
    line = LogLines(Paint(on=True)).format(1, 2, {"loss": float("nan")})
    assert "\x1b[1;33mnan" in line
    assert without_color(line) == "1/2  loss=nan"


def test_a_note_stands_at_the_end_and_breaks_with_it():
    lines = LogLines(PLAIN, width=32)
    assert lines.format(5, 10, {"eval_loss": 0.5}, note="(5.7 s)") == " 5/10  eval_loss=0.5000  (5.7 s)"
    lines.width = 31
    assert lines.format(5, 10, {"eval_loss": 0.5}, note="(5.7 s)").split("\n") == [
        " 5/10  eval_loss=0.5000",
        "       (5.7 s)",
    ]


def test_on_a_screen_an_evaluation_has_its_time_and_no_speeds():
    logs = {"eval_a": 0.5, "eval_runtime": 5.69, "eval_samples_per_second": 70.3, "epoch": 0.16}
    assert without_speed(logs) == ({"eval_a": 0.5}, "(5.7 s)")
    assert without_speed({"eval_a": 0.5}) == ({"eval_a": 0.5}, "")
