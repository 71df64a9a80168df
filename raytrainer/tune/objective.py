"""Which number of an evaluation a sweep optimizes.

``transformers`` sums all metrics where nothing else is said, which minimizes an accuracy. Here the objective is what
``compute_objective`` or ``metric_for_best_model`` names, else the loss; a metric is maximized only if there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import did_you_mean

MODES = {"minimize": "min", "maximize": "max"}
_NOT_QUALITY = ("_runtime", "_per_second", "_loss", "_model_preparation_time", "_loss_batch_mean")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The objectives of a sweep, one for each direction."""

    directions: tuple[str, ...]
    compute: Callable[[dict[str, float]], float | Sequence[float]] | str | None
    metric: str | None
    """``metric_for_best_model``, if the arguments name one."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the objectives are called in results."""
        if len(self.directions) == 1:
            return ("objective",)
        return tuple(f"objective_{number}" for number in range(len(self.directions)))

    @property
    def modes(self) -> tuple[str, ...]:
        """``min`` or ``max`` for each."""
        return tuple(MODES[direction] for direction in self.directions)

    @property
    def worst(self) -> dict[str, float]:
        """What a trial that failed has."""
        return {name: worst_if_nan(math.nan, mode) for name, mode in zip(self.names, self.modes, strict=True)}

    def of(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The objectives of one evaluation, by name; NaN becomes the worst value there is.

        Raises:
            ConfigurationError: If the evaluation does not give what was asked for.
        """
        found = self._values(dict(metrics))
        if len(found) != len(self.directions):
            raise ConfigurationError(
                f"compute_objective returned {len(found)} values for {len(self.directions)} directions "
                f"{list(self.directions)}. Return one number for each direction."
            )
        return {
            name: worst_if_nan(value, mode)
            for name, value, mode in zip(self.names, found, self.modes, strict=True)
        }

    def _values(self, metrics: dict[str, float]) -> list[float]:
        if callable(self.compute):
            value = self.compute(metrics)
            is_several = isinstance(value, Sequence) and not isinstance(value, str)
            values = list(cast("Sequence[Any]", value)) if is_several else [value]
            return [_number(one) for one in values]
        name = self.compute or self.metric
        if name is not None:
            return [_number(_metric(metrics, name))]
        if self.directions == ("maximize",):
            return [_number(metrics[_only_quality(metrics)])]
        return [_number(_metric(metrics, "loss"))]


def parse_directions(direction: object) -> tuple[str, ...]:
    """Read ``direction``.

    Raises:
        ConfigurationError: If it is neither a direction nor a list of them.
    """
    given = [direction] if isinstance(direction, str) else direction
    if isinstance(given, Sequence):
        found = [str(getattr(one, "value", one)) for one in cast("Sequence[object]", given)]
        if found and all(one in MODES for one in found):
            return tuple(found)
    raise ConfigurationError(
        f"direction={direction!r} is neither 'minimize' nor 'maximize', nor a list of them for several objectives."
    )


def worst_if_nan(value: float, mode: str) -> float:
    """A NaN loses against every number; comparisons with a NaN are all false, so that it could win."""
    if not math.isnan(value):
        return value
    return math.inf if mode == "min" else -math.inf


def _number(value: object) -> float:
    try:
        return float(cast("Any", value))
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"The objective is {value!r} ({type(value).__name__}), and a number was expected. Return one from "
            "compute_objective."
        ) from None


def _metric(metrics: Mapping[str, float], name: str) -> float:
    for key in (name, f"eval_{name}"):
        if key in metrics:
            return metrics[key]
    raise ConfigurationError(
        f"The objective is {name!r}, which the evaluation does not give.{did_you_mean(name, metrics)} It gives "
        f"{', '.join(sorted(metrics))}. Name one of them in compute_objective= or metric_for_best_model."
    )


def _only_quality(metrics: Mapping[str, float]) -> str:
    found = [name for name in metrics if name != "epoch" and not name.endswith(_NOT_QUALITY)]
    if len(found) == 1:
        return found[0]
    raise ConfigurationError(
        f"direction='maximize' without an objective: the evaluation gives {', '.join(sorted(metrics))}, and one metric "
        f"beside the loss was expected, not {len(found)}. Name one: compute_objective='eval_accuracy', or "
        "metric_for_best_model='accuracy'."
    )
