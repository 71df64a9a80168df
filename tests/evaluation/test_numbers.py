"""Evaluation results do not depend on how the data are split into batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import raytrainer
from tests.parity.twins import make_args, make_model, make_samples

NUM_SAMPLES = 10


def make_evaluator(directory: Path, batch_size: int, **options: Any) -> Any:
    metrics = options.pop("compute_metrics", None)
    return raytrainer.Trainer(
        model=make_model(),
        args=make_args(raytrainer, directory, per_device_eval_batch_size=batch_size, **options),
        eval_dataset=make_samples(NUM_SAMPLES),
        compute_metrics=metrics,
    )


def loss_per_token() -> float:
    """The mean loss over all target tokens of the dataset, computed one sample at a time."""
    model = make_model().eval()
    total, tokens = 0.0, 0
    for sample in make_samples(NUM_SAMPLES):
        with torch.no_grad():
            logits = model(input_ids=sample["input_ids"][None]).logits[0, :-1]
        targets = sample["labels"][1:]
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        tokens += int((targets != -100).sum())
    return total / tokens


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_the_loss_is_the_mean_over_tokens_at_any_batch_size(batch_size: int, tmp_path: Path) -> None:
    per_sample = [int((sample["labels"][1:] != -100).sum()) for sample in make_samples(NUM_SAMPLES)]
    assert len(set(per_sample)) > 1, "a mean over samples would do as well"
    metrics = make_evaluator(tmp_path, batch_size).evaluate()
    assert metrics["eval_loss"] == pytest.approx(loss_per_token(), abs=1e-6)


class MeanOfTargets(torch.nn.Module):
    """Its loss is the mean of the targets, so that samples with few and large targets have large losses."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        is_target = labels != -100
        return {"loss": (labels * is_target).sum() / is_target.sum() + self.bias.sum(), "logits": input_ids}


def evaluate_targets(library: Any, directory: Path, targets: list[list[int]]) -> dict[str, float]:
    rows = [torch.tensor((given + [-100] * 4)[:4]) for given in targets]
    return library.Trainer(
        model=MeanOfTargets(),
        args=make_args(library, directory, per_device_eval_batch_size=2),
        eval_dataset=[{"input_ids": row.clamp(min=0), "labels": row} for row in rows],
    ).evaluate()


def test_the_loss_of_transformers_is_reported_too_where_it_differs(tmp_path: Path) -> None:
    targets = [[9], [9], [1, 1, 1, 1], [1, 1, 1, 1], [5, 5]]
    ours = evaluate_targets(raytrainer, tmp_path, targets)
    assert ours["eval_loss"] == pytest.approx(36 / 12)
    assert ours["eval_loss_batch_mean"] == pytest.approx(25 / 5)
    theirs = evaluate_targets(transformers, tmp_path, targets)
    assert ours["eval_loss_batch_mean"] == pytest.approx(theirs["eval_loss"], abs=1e-6)


@pytest.mark.parametrize("targets", [[[3, 5], [4, 2]] * 2, [[1000], [1000, 1000, 999, 999]] * 2])
def test_a_loss_that_differs_by_less_than_a_percent_is_reported_once(targets: Any, tmp_path: Path) -> None:
    assert "eval_loss_batch_mean" not in evaluate_targets(raytrainer, tmp_path, targets)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_predictions_come_in_the_order_of_the_data(batch_size: int, tmp_path: Path) -> None:
    samples = make_samples(NUM_SAMPLES)
    output = make_evaluator(tmp_path, batch_size).predict(samples)
    assert np.array_equal(output.label_ids, torch.stack([sample["labels"] for sample in samples]).numpy())
    model = make_model().eval()
    assert len(output.predictions) == NUM_SAMPLES
    for sample, logits in zip(samples, output.predictions, strict=True):
        with torch.no_grad():
            expected = model(input_ids=sample["input_ids"][None]).logits[0].numpy()
        assert np.allclose(logits, expected, rtol=0, atol=1e-5)
    assert output.metrics["test_loss"] == pytest.approx(loss_per_token(), abs=1e-6)


@pytest.mark.parametrize("batch_size", [3, 4])
def test_metrics_see_every_sample_once(batch_size: int, tmp_path: Path) -> None:
    def count(prediction: Any) -> dict[str, float]:
        return {"rows": len(prediction.predictions), "labels": float((prediction.label_ids != -100).sum())}

    metrics = make_evaluator(tmp_path, batch_size, compute_metrics=count).evaluate()
    assert metrics["eval_rows"] == NUM_SAMPLES
    assert metrics["eval_labels"] == sum(int((s["labels"] != -100).sum()) for s in make_samples(NUM_SAMPLES))


def test_evaluation_leaves_weights_and_mode_of_training_alone(tmp_path: Path) -> None:
    trainer = make_evaluator(tmp_path, 4)
    trainer.evaluate()
    for name, value in make_model().state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name
