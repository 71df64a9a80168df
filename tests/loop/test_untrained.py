"""Parameters that do not train are counted and named; an optimizer that trains nothing is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raytrainer import ModelError, Trainer, TrainingArguments
from tests.torchrun import torchrun

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


@pytest.mark.distributed
def test_on_two_ranks_the_same_is_refused_and_told_as_on_one(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    ranks: Any = torchrun("loop/untrained_rank.py", [str(target)], target=target, timeout_s=240)
    wrappers = {"ddp": "DistributedDataParallel", "fsdp": "FSDPWide", "zero3": "DeepSpeedEngine"}
    for kind, wrapper in wrappers.items():
        # What is refused is refused on both ranks, so that neither waits for the other; rank 0 tells the rest.
        errors = [{name: case.get("error") for name, case in rank[kind].items()} for rank in ranks]
        assert errors[0] == errors[1]
        found = ranks[0][kind]
        assert all(case.get("wrapper", wrapper) == wrapper for case in found.values())
        assert all(not case.get("told") for case in ranks[1][kind].values())
        both, one = ["layer.weight", "layer.bias"], ["layer.weight"]
        made, part = found["made"], found["made in part"]
        assert (made["changed"], made["told"], part["changed"]) == (both, [], one)
        (told,) = part["told"]
        assert "does not have 1 of 2 trainable parameters (4 of 12 numbers)" in told
        assert "so they stay as they are: layer.bias." in told
        assert (
            "holds 2 parameters, none of which is among the 2 of this model"
            in found["of another model"]["error"]
        )
        assert "sets the learning rate of another SGD than the AdamW" in found["schedule of another"]["error"]
        if kind == "fsdp":
            assert "which it would never step" in found["given"]["error"]
            assert "shard: requested 1/2 a rank" in found["too small"]["error"]
        else:
            assert (found["given"]["changed"], found["given"]["told"]) == (both, [])
            assert (found["given in part"]["changed"], found["given in part"]["told"]) == (one, [told])
        untouched = [] if kind == "zero3" else ["2 of 4 trainable parameters got no gradient"]
        assert [text[: len(untouched[0])] for text in found["spare"]["told"]] == untouched
        assert found["spare"]["changed"] == both
    assert ranks[0]["ddp"]["spare on rank 0"]["told"] == []
    assert ranks[0]["ddp"]["spare on rank 0"]["changed"] == [*both, "spare.weight", "spare.bias"]


def test_a_schedule_of_another_optimizer_is_refused_also_beside_one_of_the_catalogue(tmp_path):
    class Mistaken(Trainer):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                sgd(*self.model.parameters()), lambda step: 1.0
            )
            return self.lr_scheduler

    with pytest.raises(ModelError, match="sets the learning rate of another SGD than the AdamW"):
        train(tmp_path, Model(), cls=Mistaken)
