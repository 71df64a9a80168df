"""A sweep ends when a trial found what is wrong with all of them, and when nothing goes on any more."""

from __future__ import annotations

import pytest

from raytrainer.tune.watch import STUCK_S, StopSweep


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def see(stopper, clock, statuses, seconds):
    stopper.see(statuses)
    clock.now_s += seconds
    stopper.see(statuses)
    return stopper.stop_all()


@pytest.mark.parametrize(
    ("statuses", "stops"),
    [
        (["PAUSED", "TERMINATED"], True),
        (["PAUSED", "PAUSED", "ERROR"], True),
        (["PAUSED", "RUNNING"], False),
        (["PAUSED", "PENDING"], False),
        (["TERMINATED"], False),
    ],
)
def test_sweep_whose_trials_are_all_paused_for_long_is_stuck(clock, statuses, stops, caplog):
    assert see(StopSweep(clock), clock, statuses, STUCK_S + 1) is stops
    assert ("lets none go on" in caplog.text) is stops


def test_short_pause_is_none(clock):
    stopper = StopSweep(clock)
    assert not see(stopper, clock, ["PAUSED"], STUCK_S - 1)
    stopper.see(["RUNNING"])
    assert not see(stopper, clock, ["PAUSED"], STUCK_S - 1)


def test_mistake_of_the_user_ends_the_sweep():
    stopper = StopSweep()
    assert not stopper("one", {"error": "a failure of this trial alone"})
    assert not stopper.stop_all()
    stopper("two", {"error": "no such metric", "bad_input": True})
    assert stopper.stop_all()
    assert stopper.message == "no such metric"
