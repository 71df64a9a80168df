"""What a person reads when an evaluation lacks the number that decides."""

from __future__ import annotations

import pytest

from raytrainer import TrainingArguments
from raytrainer.errors import MetricError
from raytrainer.hooks.metric import metric_of


def test_a_mistyped_metric_is_answered_with_the_nearest_one(tmp_path):
    args = TrainingArguments(tmp_path, metric_for_best_model="acuracy")
    with pytest.raises(MetricError, match=r"Did you mean 'eval_accuracy'\?$"):
        metric_of(args, {"eval_accuracy": 0.5, "eval_loss": 1.0})
