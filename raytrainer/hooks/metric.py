"""Which number of an evaluation decides."""

from __future__ import annotations

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import MetricError
from raytrainer.suggestions import did_you_mean


def metric_of(args: TrainingArguments, metrics: dict[str, float]) -> float:
    """The metric that decides about the best model and about schedules that wait for one.

    Raises:
        MetricError: If the evaluation did not give it.
    """
    assert args.metric_for_best_model is not None
    name = args.metric_for_best_model
    name = name if name.startswith("eval_") else f"eval_{name}"
    if name not in metrics:
        raise MetricError(
            f"metric_for_best_model={args.metric_for_best_model!r} asks for {name!r}, which the evaluation did not "
            f"give; it gave {sorted(metrics)}. Return it from compute_metrics, or name one of these."
            f"{did_you_mean(name, metrics)}"
        )
    return metrics[name]
