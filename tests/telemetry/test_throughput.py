"""How fast a rank trains."""

from __future__ import annotations

import pytest

from raytrainer.telemetry.throughput import SpeedMeter
from tests.telemetry.terminal import Clock


@pytest.fixture
def clock():
    return Clock()


def test_the_rate_is_since_the_last_reading(clock):
    meter = SpeedMeter(clock)
    meter.add(100)
    clock.now += 10
    meter.read()
    meter.add(32)
    meter.add(32)
    clock.now += 2
    assert meter.read() == 32.0


def test_no_time_gives_no_speed(clock):
    meter = SpeedMeter(clock)
    meter.add(100)
    assert meter.read() == 0.0


def test_elapsed_tells_whether_a_reading_is_due(clock):
    meter = SpeedMeter(clock)
    clock.now += 3
    assert meter.elapsed_s == 3
    meter.read()
    assert meter.elapsed_s == 0


def test_a_restart_leaves_a_pause_out_of_the_rate(clock):
    meter = SpeedMeter(clock)
    clock.now += 60
    meter.restart()
    meter.add(10)
    clock.now += 1
    assert meter.read() == 10.0
