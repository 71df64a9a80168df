"""Gradient accumulation changes nothing: every way to compute a loss gives the result of one big batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import raytrainer
from raytrainer import Trainer
from tests.parity.twins import make_args, make_model, make_samples, rows

STEP_SAMPLES = 8
ORDER_OF_SUMS = 2e-6


def make_pairs(count: int = 32) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "input_ids": torch.randint(0, 100, (12,), generator=generator),
            "labels": torch.randint(0, 3, (), generator=generator),
        }
        for _ in range(count)
    ]


def make_classifier() -> BertForSequenceClassification:
    """Takes any keyword, and ignores ``num_items_in_batch``: its loss is the mean of its batch."""
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
    )
    return BertForSequenceClassification(config)


class OldComputeLoss(Trainer):
    """An override from before ``num_items_in_batch`` existed: the mean of its batch."""

    calls = 0

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        type(self).calls += 1
        outputs = model(input_ids=inputs["input_ids"])
        loss = nn.functional.cross_entropy(outputs.logits[:, -1], inputs["input_ids"][:, 0])
        return (loss, outputs) if return_outputs else loss


class SumOverItems(Trainer):
    """An override that divides its sum by the items of the whole step."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(
            outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
        )
        loss = loss / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


class TakesAndIgnores(Trainer):
    """An override that takes the count but returns the mean of its batch."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(input_ids=inputs["input_ids"])
        loss = nn.functional.cross_entropy(outputs.logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


class AsksTheBase(Trainer):
    """An override that adds to the loss of the base class."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


# The example of the Trainer guide.
class CustomTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        # forward pass
        outputs = model(**inputs)
        logits = outputs.get("logits")
        # compute custom loss for 3 labels with different weights
        reduction = "sum" if num_items_in_batch is not None else "mean"
        loss_fct = nn.CrossEntropyLoss(
            weight=torch.tensor([1.0, 2.0, 3.0], device=model.device), reduction=reduction
        )
        loss = loss_fct(logits.view(-1, self.model.config.num_labels), labels.view(-1))
        if num_items_in_batch is not None:
            loss = loss / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


def train(
    trainer_class: type, directory: Path, micro_batches: int, *, library: Any = raytrainer, **options: Any
) -> Any:
    is_classifier = options.pop("classifier", False)
    trainer_options = {"compute_loss_func": options.pop("compute_loss_func", None)}
    trainer = trainer_class(
        model=make_classifier() if is_classifier else make_model(dropout=0.0),
        args=make_args(
            library,
            directory,
            max_steps=4,
            per_device_train_batch_size=STEP_SAMPLES // micro_batches,
            gradient_accumulation_steps=micro_batches,
            **options,
        ),
        train_dataset=make_pairs() if is_classifier else make_samples(32),
        **trainer_options,
    )
    trainer.train()
    assert len(rows(trainer)) == trainer.state.global_step == 4
    return trainer


def assert_as_one_batch(trainer_class: type, directory: Path, micro_batches: int, **options: Any) -> None:
    # SGD, because Adam would hide a gradient of the wrong scale.
    options = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, **options}
    whole = train(trainer_class, directory / "whole", 1, **options)
    parts = train(trainer_class, directory / "parts", micro_batches, **options)
    for one, many in zip(rows(whole), rows(parts), strict=True):
        assert one[:4] == pytest.approx(many[:4], abs=ORDER_OF_SUMS)
        assert one[2] > 0
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(parts.model.state_dict()[name], value, rtol=0, atol=ORDER_OF_SUMS), name


SPLITS = pytest.mark.parametrize("micro_batches", [2, 4])


@SPLITS
def test_the_models_own_loss_over_uneven_lengths(micro_batches: int, tmp_path: Path) -> None:
    assert_as_one_batch(Trainer, tmp_path, micro_batches)


@SPLITS
def test_label_smoothing_over_uneven_lengths(micro_batches: int, tmp_path: Path) -> None:
    assert_as_one_batch(Trainer, tmp_path, micro_batches, label_smoothing_factor=0.1)


@SPLITS
def test_an_override_without_the_count(micro_batches: int, tmp_path: Path) -> None:
    before = OldComputeLoss.calls
    assert_as_one_batch(OldComputeLoss, tmp_path, micro_batches)
    assert OldComputeLoss.calls - before == 4 + 4 * micro_batches


@SPLITS
def test_an_override_that_divides_by_the_count(micro_batches: int, tmp_path: Path) -> None:
    assert_as_one_batch(SumOverItems, tmp_path, micro_batches)


def test_an_override_that_divides_equals_the_models_own_loss(tmp_path: Path) -> None:
    for mine, other in zip(
        rows(train(SumOverItems, tmp_path / "override", 2)),
        rows(train(Trainer, tmp_path / "own", 2)),
        strict=True,
    ):
        assert mine == pytest.approx(other, abs=ORDER_OF_SUMS)


@SPLITS
def test_an_override_that_takes_the_count_and_ignores_it(micro_batches: int, tmp_path: Path) -> None:
    assert_as_one_batch(TakesAndIgnores, tmp_path, micro_batches, classifier=True)


@SPLITS
@pytest.mark.parametrize("classifier", [False, True])
def test_an_override_that_asks_the_base(micro_batches: int, classifier: bool, tmp_path: Path) -> None:
    assert_as_one_batch(AsksTheBase, tmp_path, micro_batches, classifier=classifier)


@SPLITS
def test_a_model_that_takes_any_keyword_and_ignores_the_count(micro_batches: int, tmp_path: Path) -> None:
    assert_as_one_batch(Trainer, tmp_path, micro_batches, classifier=True)


@SPLITS
def test_the_guides_custom_trainer(micro_batches: int, tmp_path: Path) -> None:
    assert_as_one_batch(CustomTrainer, tmp_path, micro_batches, classifier=True)


def test_the_guides_custom_trainer_equals_that_of_transformers(tmp_path: Path) -> None:
    their_trainer = type(
        "TransformersCustomTrainer", (transformers.Trainer,), {"compute_loss": CustomTrainer.compute_loss}
    )
    theirs = train(their_trainer, tmp_path / "theirs", 2, classifier=True, library=transformers)
    ours = train(CustomTrainer, tmp_path / "ours", 2, classifier=True)
    plain = train(Trainer, tmp_path / "plain", 2, classifier=True)
    assert rows(plain)[0][1] != pytest.approx(rows(ours)[0][1], abs=1e-3), "the override was not called"
    for mine, other in zip(rows(ours), rows(theirs), strict=True):
        assert mine == pytest.approx(other, abs=1e-6)


@SPLITS
def test_a_compute_loss_func(micro_batches: int, tmp_path: Path) -> None:
    def summed(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"][:, :-1].flatten(0, 1)
        return (
            nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch
        )

    assert_as_one_batch(Trainer, tmp_path, micro_batches, compute_loss_func=summed)


def token_losses(outputs: Any, labels: torch.Tensor, reduction: str) -> torch.Tensor:
    logits = outputs["logits"][:, :-1].flatten(0, 1)
    return nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction=reduction)


def mean_with_count(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    assert num_items_in_batch > 0, (
        f"{num_items_in_batch} items"
    )  # asks for its value, and divides nothing by it
    return nn.functional.cross_entropy(outputs["logits"], labels)


def mean_without_count(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs["logits"], labels)


class MeanModule(nn.Module):
    def forward(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs["logits"], labels)


def mean_through_keywords(outputs: Any, labels: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs["logits"], labels, **kwargs)


@SPLITS
@pytest.mark.parametrize(
    "function", [mean_with_count, mean_without_count, MeanModule(), mean_through_keywords]
)
def test_a_compute_loss_func_that_returns_a_mean(function: Any, micro_batches: int, tmp_path: Path) -> None:
    assert_as_one_batch(Trainer, tmp_path, micro_batches, classifier=True, compute_loss_func=function)


def test_a_mean_of_a_compute_loss_func_has_the_loss_of_the_model(tmp_path: Path) -> None:
    own = train(Trainer, tmp_path / "own", 4, classifier=True)
    with_function = train(Trainer, tmp_path / "f", 4, classifier=True, compute_loss_func=mean_with_count)
    for mine, other in zip(rows(with_function), rows(own), strict=True):
        assert mine == pytest.approx(other, abs=1e-6)


def taken_out(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    return token_losses(outputs, labels, "sum") / num_items_in_batch.item()


def test_a_count_that_leaves_its_tensor_is_taken_as_divided_by_and_the_user_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_as_one_batch(Trainer, tmp_path, 4, compute_loss_func=taken_out)
    assert "compute_loss_func takes num_items_in_batch out of its tensor" in caplog.text
    assert "loss_is_scaled_for_ga = False" in caplog.text


def test_what_the_trainer_declares_of_its_compute_loss_func_is_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Declares(Trainer):
        loss_is_scaled_for_ga = False

    def prints(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        assert num_items_in_batch.item() > 0
        return nn.functional.cross_entropy(outputs["logits"], labels)

    assert_as_one_batch(Declares, tmp_path, 4, classifier=True, compute_loss_func=prints)
    assert "out of its tensor" not in caplog.text


class AsksTheBaseWithoutCount(Trainer):
    """An override from before ``num_items_in_batch`` existed that adds to the loss of the base class."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        return super().compute_loss(model, inputs, return_outputs)


@SPLITS
def test_an_override_without_the_count_that_asks_the_base(micro_batches: int, tmp_path: Path) -> None:
    assert_as_one_batch(AsksTheBaseWithoutCount, tmp_path, micro_batches, classifier=True)
