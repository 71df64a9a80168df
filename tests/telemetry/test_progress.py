"""The live line at every terminal width."""

from __future__ import annotations

import pytest

from raytrainer.telemetry.formatting import ASCII, UNICODE, Paint, display_width
from raytrainer.telemetry.progress import (
    LineStyle,
    PredictionProgress,
    TrainProgress,
    prediction_line,
    train_line,
)

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
        " 45%|████▌     | 135/300 · epoch 0.90 · loss 0.412 · lr 3.1e-05 · "
        "2 workers 58.1 samples/s (29.1 + 29.0) · 1:10 left"
    )


def test_eighty_columns_keep_the_shares_of_both_workers():
    assert train_line(HALFWAY, STYLE, 79) == (
        " 45%|████▌     | 135/300 · loss 0.412 · 58.1 samples/s (29.1+29.0) · 1:10 left"
    )


@pytest.mark.parametrize("paint", [Paint(on=False), Paint(on=True)])
def test_no_line_is_ever_too_wide(paint):
    style = LineStyle(UNICODE, paint)
    for width in range(1, 130):
        assert display_width(train_line(HALFWAY, style, width)) <= width
        prediction = PredictionProgress(description="Evaluation", done=3, total=30)
        assert display_width(prediction_line(prediction, style, width)) <= width


@pytest.mark.parametrize("step", [0, 1, 149, 299, 300])
def test_the_bar_has_ten_cells_and_100_percent_means_done(step):
    line = train_line(TrainProgress(step=step, max_steps=300, epoch=0), STYLE, 120)
    assert len(line.split("|")[1]) == 10
    assert ("100%" in line) == (step == 300)


def test_many_workers_are_shown_as_a_range():
    many = TrainProgress(step=1, max_steps=3, epoch=0, samples_per_s=[30.0] * 15 + [28.5])
    assert "16 workers 478.5 samples/s (28.5–30.0 each)" in train_line(many, STYLE, 120)


def test_one_worker_is_not_counted():
    one = TrainProgress(step=1, max_steps=3, epoch=0, samples_per_s=[2900.4])
    assert train_line(one, STYLE, 120).endswith("epoch 0.00 · 2900 samples/s")


def test_ascii_terminals_get_ascii():
    assert train_line(HALFWAY, LineStyle(ASCII, Paint(on=False)), 120).isascii()


def test_an_unknown_total_counts_batches():
    unknown = PredictionProgress(description="Prediction", done=12, total=None)
    assert prediction_line(unknown, STYLE, 80) == "Prediction 12 batches"
