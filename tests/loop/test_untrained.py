"""Parameters that do not train are counted and named; an optimizer that trains nothing is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raytrainer import ModelError, Trainer, TrainingArguments

ROWS = [{"x": torch.tensor([float(number), 1.0]), "labels": torch.tensor(1.0)} for number in range(8)]


class Model(nn.Module):
    """Has a layer that the loss does not depend on, if asked to."""

    def __init__(self, *, spare: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        if spare:
            self.spare = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layer(x)[:, 0] - labels).pow(2).mean()}


def train(directory: Path, model: Any = None, *, cls: type[Trainer] = Trainer, **given: Any) -> Trainer:
    args = TrainingArguments(str(directory), num_workers=0, use_cpu=True, max_steps=2, save_strategy="no")
    trainer = cls(model, args, train_dataset=ROWS, **given)
    trainer.train()
    return trainer


def sgd(*parameters: nn.Parameter) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def test_an_optimizer_with_some_parameters_counts_those_it_does_not_have(tmp_path, caplog):
    model = Model()
    before = model.layer.bias.clone()
    train(tmp_path, model, optimizers=(sgd(model.layer.weight), None))
    assert "does not have 1 of 2 trainable parameters (1 of 3 numbers)" in caplog.text
    assert "layer.bias" in caplog.text
    assert torch.equal(model.layer.bias, before)


def test_an_optimizer_that_a_hook_makes_of_another_model_is_refused(tmp_path):
    class Mistaken(Trainer):
        def create_optimizer(self, model: Any = None) -> Any:
            self.optimizer = sgd(*Model().parameters())
            return self.optimizer

    with pytest.raises(ModelError, match="none of which is among the 2 of this model"):
        train(tmp_path, Model(), cls=Mistaken)


def test_a_schedule_that_a_hook_makes_of_another_optimizer_is_refused(tmp_path):
    class Mistaken(Trainer):
        def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
            self.optimizer = sgd(*self.model.parameters())
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                sgd(*self.model.parameters()), lambda step: 1.0
            )

    with pytest.raises(ModelError, match="sets the learning rate of another SGD"):
        train(tmp_path, Model(), cls=Mistaken)


def test_parameters_without_a_gradient_are_named_once(tmp_path, caplog):
    train(tmp_path, Model(spare=True))
    told = [record.message for record in caplog.records if "got no gradient" in record.message]
    assert len(told) == 1
    assert "2 of 4 trainable parameters got no gradient in the first step" in told[0]
    assert "spare.weight, spare.bias" in told[0]


def test_nothing_is_said_where_all_train(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(tmp_path, Model())
    assert "got no gradient" not in caplog.text
    assert "does not have" not in caplog.text


def test_a_model_of_model_init_is_checked_too(tmp_path):
    with pytest.raises(ModelError, match="model_init returned a int"):
        train(tmp_path, model_init=lambda: 5)
