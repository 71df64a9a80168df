"""How a curve of many points becomes one of few without hiding what matters: each stretch keeps its extremes.

A stretch of the curve is drawn by its first and last point, its least and its greatest value. A spike of a single step
among 100,000 is in the picture at its step and with its value. Values that are no finite numbers are all kept apart, up
to a limit, because a line cannot show them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from raytrainer.report.record import Sample


def thinned(samples: Sequence[Sample], limit: int) -> list[Sample]:
    """Choose at most about ``limit`` of the samples, in order.

    Args:
        samples: In order; all are finite.
        limit: At least 4.
    """
    if len(samples) <= limit:
        return list(samples)
    stretches = max(1, limit // 4)
    kept: list[Sample] = []
    for number in range(stretches):
        begin = number * len(samples) // stretches
        end = (number + 1) * len(samples) // stretches
        values = range(begin, end)
        chosen = {
            begin,
            end - 1,
            min(values, key=lambda index: samples[index].value),
            max(values, key=lambda index: samples[index].value),
        }
        kept += [samples[index] for index in sorted(chosen)]
    return kept


def split_finite(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples with finite values, and the others."""
    finite = [sample for sample in samples if math.isfinite(sample.value)]
    return finite, [sample for sample in samples if not math.isfinite(sample.value)]
