"""How numbers, sizes, durations and paths are written."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from raytrainer.telemetry.formatting import (
    format_ago,
    format_bytes,
    format_count,
    format_duration,
    format_time_left,
    format_value,
    is_evaluation,
    shorten_path,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.693147, "0.6931"),
        (0.5, "0.5000"),
        (5e-05, "5.000e-05"),
        (0.0, "0.0000"),
        (12.3, "12.30"),
        (999.96, "1000"),
        (12345.678, "12345.7"),
        (1e17, "1.000e+17"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (7, "7"),
        (True, "True"),
        (np.float32(0.25), "0.2500"),
        (np.int64(3), "3"),
        (None, "None"),
        ("two\nlines", "two lines"),
    ],
)
def test_values(value, text):
    assert format_value(value) == text


def test_long_strings_are_cut_and_say_how_long_they_were():
    assert format_value("x" * 5000).endswith("… (5000 characters)")
    assert len(format_value("x" * 5000)) < 130


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.41, "0.4 s"), (12, "12 s"), (59.7, "1:00"), (70, "1:10"), (7500, "2:05:00"), (274200, "3 d 04:10")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s ago"),
        (59.9, "59 s ago"),
        (1730, "28 min ago"),
        (90_000, "25 h ago"),
        (200_000, "2 days ago"),
    ],
)
def test_how_long_ago(seconds, text):
    assert format_ago(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0 s"), (4.4, "4 s"), (70, "1:10")])
def test_time_left_has_no_tenths(seconds, text):
    assert format_time_left(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (912, "912 B"),
        (9_100_000, "9.1 MB"),
        (91_000_000, "91 MB"),
        (999_999, "1.0 MB"),
        (2e12, "2.0 TB"),
    ],
)
def test_bytes(num_bytes, text):
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(18, "18"), (9_999, "9999"), (91_200, "91.2 k"), (22_700_000, "22.7 M"), (1_340_000_000, "1.3 B")],
)
def test_counts(count, text):
    assert format_count(count) == text


def test_paths_below_the_working_directory_are_shown_relative_to_it():
    assert shorten_path(str(Path.cwd() / "runs" / "a")) == str(Path("runs") / "a")


@pytest.mark.parametrize("path", ["s3://bucket/runs/a", "/a"])
def test_paths_that_would_not_get_shorter_stay(path):
    assert shorten_path(path) == path


def test_evaluations_are_recognized_by_their_prefix():
    assert is_evaluation({"eval_loss": 1.0})
    assert not is_evaluation({"loss": 1.0})
