"""The live line at every terminal width."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from raytrainer.telemetry.paint import ASCII, UNICODE, Paint
from raytrainer.telemetry.progress import (
    LineStyle,
    PredictionProgress,
    TrainProgress,
    Waiting,
    prediction_line,
    train_line,
    waiting_line,
)
from tests.telemetry.terminal import without_color

STYLE = LineStyle(UNICODE, Paint(on=False))
HALFWAY = TrainProgress(
    step=135,
    max_steps=300,
    epoch=0.9,
    loss=0.4123,
    learning_rate=3.1e-05,
    samples_per_s=[29.1, 29.0],
    eta_s=70.2,
)


def test_a_wide_terminal_shows_everything():
    assert train_line(HALFWAY, STYLE, 120) == (
        " 45% ━━━━╸      135/300 · epoch 0.90 · loss 0.412 · lr 3.1e-05 · "
        "2 workers 58.1 samples/s (29.1 + 29.0) · 1:10 left"
    )


def test_eighty_columns_keep_the_shares_of_both_workers():
    assert train_line(HALFWAY, STYLE, 79) == (
        " 45% ━━━━╸      135/300 · loss 0.412 · 58.1 samples/s (29.1+29.0) · 1:10 left"
    )


@pytest.mark.parametrize("paint", [Paint(on=False), Paint(on=True)])
def test_no_line_is_ever_too_wide(paint):
    style = LineStyle(UNICODE, paint)
    for width in range(1, 130):
        assert cell_len(without_color(train_line(HALFWAY, style, width))) <= width
        prediction = PredictionProgress(description="Evaluation", done=3, total=30)
        assert cell_len(without_color(prediction_line(prediction, style, width))) <= width


@pytest.mark.parametrize("step", [0, 1, 149, 299, 300])
def test_the_bar_has_ten_cells_and_100_percent_means_done(step):
    line = train_line(TrainProgress(step=step, max_steps=300, epoch=0), STYLE, 120)
    assert line[4] == line[15] == " "
    assert line[5:15].strip("━╸ ") == ""
    assert len(line[16:].split()[0]) in (5, 7)
    assert ("100%" in line) == (step == 300)


def test_many_workers_are_shown_as_a_range():
    many = TrainProgress(step=1, max_steps=3, epoch=0, samples_per_s=[30.0] * 15 + [28.5])
    assert "16 workers 478.5 samples/s (28.5–30.0 each)" in train_line(many, STYLE, 120)


def test_one_worker_is_not_counted():
    one = TrainProgress(step=1, max_steps=3, epoch=0, samples_per_s=[2900.4])
    assert train_line(one, STYLE, 120).endswith("epoch 0.00 · 2900 samples/s")


def test_ascii_terminals_get_ascii():
    line = train_line(HALFWAY, LineStyle(ASCII, Paint(on=False)), 120)
    assert line.isascii()
    assert line.startswith(" 45% |####      | 135/300 - ")


def test_an_unknown_total_counts_batches():
    unknown = PredictionProgress(description="Prediction", done=12, total=None)
    assert prediction_line(unknown, STYLE, 80) == "Prediction 12 batches"


def test_with_colors_the_whole_bar_is_seen():
    line = train_line(HALFWAY, LineStyle(UNICODE, Paint(on=True)), 120)
    assert without_color(line).startswith(" 45% ━━━━╸━━━━━ 135/300")
    assert "\x1b[2m━━━━━\x1b[0m" in line


def test_waiting_says_for_what_and_after_a_while_how_long():
    assert (
        waiting_line(Waiting(what="starting the workers", seconds=0.1), STYLE, 80) == "⠙ starting the workers"
    )
    assert waiting_line(Waiting(what="starting", seconds=75), STYLE, 80).endswith(" starting  1:15")
    ascii_line = waiting_line(Waiting(what="starting", seconds=75), LineStyle(ASCII, Paint(on=False)), 80)
    assert ascii_line.isascii()
    assert [
        cell_len(waiting_line(Waiting(what="starting", seconds=75), STYLE, width)) for width in (1, 5, 9)
    ] == [1, 5, 9]
