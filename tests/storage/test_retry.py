"""Which requests are made again, how often, and what is said."""

from __future__ import annotations

import logging

import pytest

from raytrainer.storage import retry
from raytrainer.storage.retry import Patience, repeated


class Clock:
    def __init__(self):
        self.now = 0.0
        self.pauses = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(retry.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(retry.time, "sleep", clock.sleep)
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: 1.0)
    return clock


def failing(number, error):
    calls = []

    def request():
        calls.append(None)
        if len(calls) <= number:
            raise error
        return len(calls)

    return request


def test_a_request_is_made_again_until_it_succeeds_and_each_time_is_a_warning(clock, caplog):
    error = OSError("AWS Error SLOW_DOWN during PutObject operation")
    assert repeated("Writing s3://b/a", failing(4, error), Patience(seconds=100)) == 5
    assert clock.pauses == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4
    assert (
        "Writing s3://b/a failed and is tried again in 0.2 s (attempt 2, for 100 s more at most)"
        in caplog.text
    )


def test_the_time_of_all_attempts_is_bounded(clock):
    with pytest.raises(OSError, match="INTERNAL") as caught:
        repeated("Writing a", failing(10**6, OSError("INTERNAL_FAILURE")), Patience(seconds=60))
    assert 60 <= clock.now <= 60 + retry.DURING_A_RUN.longest_pause_s
    assert any("failed" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("gone"),
        PermissionError("no"),
        OSError("AWS Error ACCESS_DENIED during PutObject operation"),
        OSError("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation"),
        OSError(28, "No space left on device"),
    ],
)
def test_what_no_repetition_mends_is_raised_at_once(clock, caplog, error):
    with pytest.raises(type(error)):
        repeated("Writing a", failing(1, error), Patience(seconds=60))
    assert clock.pauses == []
    assert caplog.records == []
