"""How fast a rank trains."""

from __future__ import annotations

import pytest

from raytrainer.telemetry.throughput import SpeedMeter
from tests.telemetry.terminal import Clock


@pytest.fixture
def clock():
    return Clock()


def test_rates_are_since_the_last_reading(clock):
    meter = SpeedMeter(clock)
    meter.update(100)
    clock.now += 10
    meter.read()
    meter.update(32, 2)
    meter.update(32, 2)
    clock.now += 2
    speed = meter.read()
    assert (speed.samples_per_s, speed.steps_per_s, speed.elapsed_s) == (32.0, 2.0, 2.0)


def test_no_time_gives_no_speed(clock):
    meter = SpeedMeter(clock)
    meter.update(100)
    assert meter.read().samples_per_s == 0.0


def test_elapsed_tells_whether_a_reading_is_due(clock):
    meter = SpeedMeter(clock)
    clock.now += 3
    assert meter.elapsed_s == 3
    meter.read()
    assert meter.elapsed_s == 0


def test_restart_leaves_a_pause_out_of_the_rate(clock):
    meter = SpeedMeter(clock)
    clock.now += 60
    meter.restart()
    meter.update(10)
    clock.now += 1
    assert meter.read().samples_per_s == 10.0
