"""Models, datasets and Trainer facts for the preflight tests."""

from __future__ import annotations

import random

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from raytrainer import TrainingArguments
from raytrainer.preflight.facts import TrainerFacts


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.layer(input_ids)


class AnyModel(Model):
    def forward(self, input_ids: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        return self.layer(input_ids)


class Rows(torch.utils.data.Dataset):
    def __init__(self, *rows: object) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> object:
        random.random(), np.random.rand(), torch.rand(1)
        return self.rows[index]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        raise AssertionError("a stream was read")


GOOD = Rows({"input_ids": [1.0, 2.0], "labels": 1, "extra": 3})
ODD = Rows({"x": 1, "y": 2})


def facts(options: dict | None = None, **given: object) -> TrainerFacts:
    given = {"model": Model(), "train_dataset": GOOD, **given}
    return TrainerFacts(args=TrainingArguments(**(options or {})), **given)


def columns(**values: object) -> Dataset:
    return Dataset.from_dict({name: [value] for name, value in values.items()})
