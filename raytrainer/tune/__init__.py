"""Sweeps with Ray Tune, whose trials are training runs with workers of their own.

``Trainer.hyperparameter_search`` is the short way. With a ``ray.tune.Tuner`` of your own, use ``trainable``, or a
function that makes a trainer and trains it.

Names are resolved when they are first used: workers read the hyperparameters of their trial, and need no Ray Tune.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raytrainer.tune.own_function import report_evaluations
    from raytrainer.tune.own_tuner import trainable
    from raytrainer.tune.reservation import resources

__all__ = ["report_evaluations", "resources", "trainable"]

_HOMES = {"report_evaluations": "own_function", "resources": "reservation", "trainable": "own_tuner"}


def __getattr__(name: str) -> object:
    """Import the home of a public name."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
