from __future__ import annotations

import pytest

from raytrainer.control.state import Update
from raytrainer.driver.hang_clock import HangClock
from raytrainer.telemetry.events import (
    Busy,
    CheckpointCommitted,
    Note,
    PredictionStep,
    StepDone,
    TrainStarted,
)


class Time:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def see(time):
    """Lets time go by, then an event come; the clock is ``see.clock``."""

    def see(after_s, *events, is_running=True):
        time.now += after_s
        see.clock.follow(Update(events=list(events), is_running=is_running))

    see.clock = HangClock(time)
    return see


def step(number):
    return StepDone(step=number, max_steps=99, epoch=0.0, samples_per_s=[])


def started():
    return TrainStarted(max_steps=99, first_step=0, num_epochs=1, attempt=0, rows=[])


COMMITTED = CheckpointCommitted(step=4, path="checkpoint-4", num_bytes=1, seconds=0.0)


def test_a_step_may_take_twenty_times_the_median_and_a_minute_at_least(see, time):
    see(0, started())
    for number in range(1, 5):
        see(1, step(number))
    assert see.clock.limit_s(60) == 60
    for number in range(5, 40):
        see(10, step(number))
    assert see.clock.limit_s(60) == 200
    time.now += 7
    assert see.clock.quiet_s == 7
    assert see.clock.last == "step 39 was done, and the next one usually takes 10 s"


def test_steps_that_are_not_told_count_in_the_median(see):
    see(0, step(10))
    see(8, step(14))
    assert see.clock.limit_s(1) == 40


@pytest.mark.parametrize(
    "event", [started(), Busy(what="a save"), COMMITTED, Busy(what="the set-up")], ids=repr
)
def test_what_has_no_measure_gets_ten_times_as_long(see, event):
    see(0, step(1))
    see(1, step(2))
    see(1, event)
    assert see.clock.limit_s(60) == 600


def test_time_with_a_save_in_it_is_no_time_of_a_step(see):
    see(0, step(1))
    see(1, step(2))
    see(0, Busy(what="a save"))
    see(500, COMMITTED)
    see(1, step(3))
    assert see.clock.limit_s(1) == 20


def test_batches_of_an_evaluation_have_a_clock_of_their_own(see):
    see(0, step(1))
    see(1, step(2))
    for done in range(1, 4):
        see(30, PredictionStep(description="Evaluation", done=done, total=9))
    assert see.clock.limit_s(60) == 600
    assert see.clock.last == "batch 3 of evaluation was done, and the next one usually takes 30 s"
    see(1, step(3))
    assert see.clock.limit_s(60) == 60


def test_a_note_is_no_progress(see):
    see(0, step(1))
    see(50, Note(text="still here"))
    assert see.clock.quiet_s == 50


def test_no_clock_runs_while_no_workers_are_there(see, time):
    see(0, step(1))
    see(1, is_running=False)
    time.now += 1000
    assert see.clock.quiet_s == 0
    see(0, Busy(what="the set-up"))
    time.now += 5
    assert see.clock.quiet_s == 5
