"""When a model is put into training mode before a micro-batch."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from raytrainer.loop.train_mode import TrainMode


class Counted(nn.Linear):
    """Counts how often its mode was set."""

    def __init__(self) -> None:
        self.num_calls = 0
        super().__init__(2, 2)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "training":
            object.__setattr__(self, "num_calls", self.num_calls + 1)
        super().__setattr__(name, value)


class FrozenNorm(nn.Sequential):
    """Has a ``train`` of its own, as models with frozen batch norms do."""

    num_calls = 0

    def train(self, mode: bool = True) -> FrozenNorm:
        self.num_calls += 1
        super().train(mode)
        self[0].eval()
        return self


def entered(model: nn.Module) -> TrainMode:
    mode = TrainMode()
    mode.enter(model)
    return mode


def test_modules_that_are_in_training_mode_are_not_visited_again() -> None:
    inner = Counted()
    model = nn.Sequential(nn.Sequential(inner), nn.Dropout())
    mode = entered(model)
    before = inner.num_calls
    mode.enter(model)
    assert inner.num_calls == before


def test_a_model_of_transformers_is_not_visited_again() -> None:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    )
    model.inner = Counted()
    mode = entered(model)
    before = model.inner.num_calls
    mode.enter(model)
    assert model.inner.num_calls == before
    assert model.model.training


def test_an_evaluation_of_the_whole_model_is_undone() -> None:
    model = nn.Sequential(nn.Sequential(nn.Dropout()))
    mode = entered(model)
    model.eval()
    mode.enter(model)
    assert all(module.training for module in model.modules())


def test_a_part_that_was_put_into_evaluation_mode_trains_again() -> None:
    model = nn.Sequential(nn.Sequential(nn.Dropout()), nn.Linear(2, 2))
    mode = entered(model)
    model[0][0].eval()
    mode.enter(model)
    assert model[0][0].training


def test_a_part_that_was_exchanged_for_one_in_evaluation_mode_trains() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
    mode = entered(model)
    model[0][0] = nn.Dropout().eval()
    mode.enter(model)
    assert model[0][0].training
    model[0].add_module("later", nn.Dropout().eval())
    mode.enter(model)
    assert model[0].later.training


def test_a_train_method_of_the_users_is_called_each_time() -> None:
    model = nn.Sequential(FrozenNorm(nn.BatchNorm1d(2)), nn.Linear(2, 2))
    mode = entered(model)
    mode.enter(model)
    assert model[0].num_calls == 2
    assert not model[0][0].training


def test_a_train_method_on_an_instance_is_called_each_time() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    calls: list[bool] = []
    model.train = lambda mode=True: calls.append(mode) or model
    mode = entered(model)
    mode.enter(model)
    assert calls == [True, True]


def test_another_model_is_put_into_training_mode() -> None:
    mode = entered(nn.Linear(2, 2))
    model = nn.Linear(2, 2).eval()
    mode.enter(model)
    assert model.training


def test_a_scripted_model_is_put_into_training_mode_each_time() -> None:
    model = torch.jit.trace(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2))
    mode = entered(model)
    model.eval()
    mode.enter(model)
    assert model.training
