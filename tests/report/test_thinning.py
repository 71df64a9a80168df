"""A thinned curve has the extremes of every stretch, in order, and is as short as was asked."""

from __future__ import annotations

import math
import random

from raytrainer.report.record import Sample
from raytrainer.report.thinning import split_finite, thinned


def test_a_spike_of_one_step_stays_at_its_step():
    samples = [Sample(step, None, 1.0) for step in range(100_000)]
    samples[77_777] = Sample(77_777, None, 50.0)
    samples[1_234] = Sample(1_234, None, -50.0)
    kept = thinned(samples, 1000)
    assert len(kept) <= 1000
    assert {(one.step, one.value) for one in kept} >= {(77_777, 50.0), (1_234, -50.0)}


def test_each_stretch_keeps_its_least_and_greatest_value():
    draw = random.Random(1)
    samples = [Sample(step, None, draw.random()) for step in range(5000)]
    kept = thinned(samples, 100)
    assert [one.step for one in kept] == sorted({one.step for one in kept})
    assert (kept[0].step, kept[-1].step) == (0, 4999)
    for number in range(25):
        stretch = samples[number * 200 : (number + 1) * 200]
        found = [one.value for one in kept if number * 200 <= one.step < (number + 1) * 200]
        assert (min(found), max(found)) == (
            min(one.value for one in stretch),
            max(one.value for one in stretch),
        )


def test_a_short_curve_stays_as_it_is():
    samples = [Sample(step, None, float(step)) for step in range(10)]
    assert thinned(samples, 10) == samples


def test_values_that_are_no_numbers_are_kept_apart():
    samples = [Sample(1, None, 1.0), Sample(2, None, math.nan), Sample(3, None, math.inf)]
    finite, others = split_finite(samples)
    assert [one.step for one in finite] == [1]
    assert [one.step for one in others] == [2, 3]
