"""Which columns of a dataset reach the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn

import raytrainer
from raytrainer.data.columns import drop_unused_columns
from raytrainer.data.sample_lengths import sample_lengths
from tests.parity.twins import make_args


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 3)

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        logits = self.layer(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


IMAGES = {"image": [[1.0, 2.0], [3.0, 4.0]] * 4, "label": [0, 2] * 4, "note": ["a", "b"] * 4}


def halve(rows: dict[str, Any]) -> dict[str, Any]:
    pixels = [torch.tensor(image) / 2 for image in rows["image"]]
    return {"pixel_values": pixels, "size": [len(image) for image in rows["image"]], **rows}


def train(dataset: Any, directory: Path, **options: Any) -> dict[str, torch.Tensor]:
    trainer = raytrainer.Trainer(
        model=Classifier(),
        args=make_args(raytrainer, directory, max_steps=3, **options),
        train_dataset=dataset,
        eval_dataset=dataset,
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    return trainer.model.state_dict()


@pytest.mark.parametrize(
    "form",
    [{}, {"columns": ["image", "label"]}, {"columns": ["image"], "output_all_columns": True}],
    ids=["all", "some", "some and the others as they are"],
)
@pytest.mark.parametrize("processes", [0, 1])
def test_a_transform_reads_columns_that_the_model_does_not_take(form, processes, tmp_path):
    stored = Dataset.from_dict(IMAGES)
    expected = train(
        Dataset.from_dict({"pixel_values": [[0.5, 1.0], [1.5, 2.0]] * 4, "label": IMAGES["label"]}),
        tmp_path / "plain",
    )
    weights = train(
        stored.with_transform(halve, **form), tmp_path / "transformed", dataloader_num_workers=processes
    )
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


def test_columns_are_dropped_from_what_a_transform_returns_and_only_once():
    columns = ["pixel_values", "label"]
    dataset: Any = Dataset.from_dict(IMAGES).with_transform(halve)
    for _ in range(2):
        dataset = drop_unused_columns(dataset, columns, description=None, model_name="Classifier")
        assert set(dataset[0]) == {"pixel_values", "label"}
    assert set(dataset.column_names) == set(IMAGES)


def test_lengths_are_those_of_what_a_transform_makes_unless_a_column_has_them():
    dataset = Dataset.from_dict({"text": ["a", "bbb"], "length": [7, 8]})
    dataset = dataset.with_transform(lambda rows: {"input_ids": [list(text) for text in rows["text"]]})
    options: dict[str, Any] = {"input_name": None, "argument": "group_by_length"}
    assert sample_lengths(dataset, column="length", **options) == [7, 8]
    assert sample_lengths(dataset, column="missing", **options) == [1, 3]
