"""A metric for the best model that no evaluation can give is found before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import raytrainer
from raytrainer import ConfigurationError
from tests.parity.twins import make_args, make_model, make_samples

BEST = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}


class AddsMetrics(transformers.TrainerCallback):
    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        metrics["eval_mean"] = 1.0


def trainer(directory: Path, options: dict[str, Any] | None = None, **given: Any) -> raytrainer.Trainer:
    args = make_args(raytrainer, directory, **{**BEST, "eval_steps": 1, "save_steps": 1, **(options or {})})
    given = {"eval_dataset": make_samples(8), **given}
    return raytrainer.Trainer(model=make_model(), args=args, train_dataset=make_samples(8), **given)


@pytest.mark.parametrize("metric", [None, "loss", "eval_accuracy", "other_loss"])
def test_a_metric_without_the_name_of_one_of_several_datasets_is_refused_by_the_constructor(metric, tmp_path):
    named = {"dev": make_samples(8), "far": make_samples(8)}
    wanted = "eval_" + (metric or "loss").removeprefix("eval_")
    with pytest.raises(ConfigurationError, match=rf"{wanted}'.*one of \['eval_dev_.*'eval_far_"):
        trainer(tmp_path, {"metric_for_best_model": metric}, eval_dataset=named, compute_metrics=lambda p: {})


def test_a_metric_with_the_name_of_a_dataset_trains_and_finds_the_best(tmp_path):
    named = {"dev": make_samples(8), "far": make_samples(8)}
    mine = trainer(tmp_path, {"metric_for_best_model": "far_loss", "max_steps": 2}, eval_dataset=named)
    mine.train()
    assert mine.state.best_metric == min(
        row["eval_far_loss"] for row in mine.state.log_history if "eval_far_loss" in row
    )


def test_without_compute_metrics_only_the_loss_and_speeds_can_be_compared(tmp_path):
    mine = trainer(tmp_path, {"metric_for_best_model": "accuracy"})
    with pytest.raises(
        ConfigurationError, match=r"'eval_accuracy', which no evaluation.*eval_loss.*compute_metrics"
    ):
        mine.train()


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"metric_for_best_model": "mean"}, {"callbacks": [AddsMetrics]}),
        (
            {"metric_for_best_model": "mean"},
            {"eval_dataset": {"a": make_samples(8)}, "callbacks": [AddsMetrics()]},
        ),
        ({"metric_for_best_model": "runtime"}, {}),
        ({"metric_for_best_model": "made"}, {"compute_metrics": lambda pred: {"made": 1.0}}),
    ],
)
def test_a_metric_that_may_exist_trains(options, given, tmp_path):
    mine = trainer(tmp_path, {**options, "max_steps": 1}, **given)
    mine.train()
    assert mine.state.best_metric is not None
