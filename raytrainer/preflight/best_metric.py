"""Whether an evaluation can give the metric that decides about the best model.

A metric that no evaluation can give would end a run at its first evaluation. What ``compute_metrics`` returns is not
known before it runs; without it, the metrics are known, and with a dict of datasets, how their names begin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from transformers.trainer_utils import IntervalStrategy

from raytrainer.errors import MetricError
from raytrainer.preflight.facts import TrainerFacts


def best_metric_names_a_dataset(facts: TrainerFacts) -> None:
    """The metrics of a dict of datasets have the names of the datasets in their own.

    Raises:
        MetricError: If ``metric_for_best_model`` has the name of none.
    """
    metric = wanted_metric(facts)
    names = dataset_names(facts)
    if metric is None or names is None or any(metric.startswith(f"{name}_") for name in names):
        return
    raise MetricError(
        f"metric_for_best_model={facts.args.metric_for_best_model!r} asks for 'eval_{metric}', which no evaluation "
        f"will give: eval_dataset is a dict, so each metric has the name of its dataset, and there are {names}. Set "
        f"metric_for_best_model to one of {[f'eval_{name}_{metric}' for name in names[:4]]}, or pass one dataset. If a "
        "callback adds the metric in on_evaluate, pass it as callbacks=."
    )


def best_metric_can_exist(facts: TrainerFacts) -> None:
    """Without ``compute_metrics``, an evaluation gives a loss and its speed.

    Raises:
        MetricError: If ``metric_for_best_model`` is something else.
    """
    metric = wanted_metric(facts)
    given = known_metrics(facts)
    if metric is None or given is None or f"eval_{metric}" in given:
        return
    raise MetricError(
        f"metric_for_best_model={facts.args.metric_for_best_model!r} asks for 'eval_{metric}', which no evaluation "
        f"will give: without compute_metrics it gives {_of_one_dataset(facts, given)}. "
        "Pass a compute_metrics that returns the metric, or name one of these. If a callback adds the metric in "
        "on_evaluate, add it before train()."
    )


def known_metrics(facts: TrainerFacts) -> list[str] | None:
    """The names of all metrics that an evaluation will give; None where the user's code may add some."""
    if facts.makes_metrics or facts.compute_metrics is not None or not facts.args.skip_memory_metrics:
        return None
    prefixes = [f"eval_{name}_" for name in dataset_names(facts) or ()] or ["eval_"]
    return [prefix + name for prefix in prefixes for name in sorted(facts.evaluates)]


def _of_one_dataset(facts: TrainerFacts, given: list[str]) -> list[str]:
    return given[: len(facts.evaluates)]


def wanted_metric(facts: TrainerFacts) -> str | None:
    """The metric that must exist, without ``eval_``; None where nothing is compared, or the user's code may add it."""
    metric = facts.args.metric_for_best_model
    if metric is None or facts.args.eval_strategy == IntervalStrategy.NO or facts.makes_metrics:
        return None
    return metric.removeprefix("eval_")


def dataset_names(facts: TrainerFacts) -> list[str] | None:
    """The names of a dict of evaluation datasets; None if there is none."""
    given = facts.eval_dataset
    return [str(name) for name in cast("Mapping[object, object]", given)] if isinstance(given, dict) else None
