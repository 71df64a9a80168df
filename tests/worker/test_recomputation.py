"""Models recompute activations under either name of the method; one that has neither is an error before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from raytrainer import ConfigurationError
from tests.parity.twins import make_args, make_model, make_samples


class Plain(torch.nn.Module):
    """Wraps a model of transformers, and has none of its methods."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
        return self.inner(input_ids=input_ids, labels=labels)


class WithFormerName(Plain):
    options: Any = None

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None, **more: Any) -> None:
        self.options = (gradient_checkpointing_kwargs, more)


def trainer_of(model: Any, directory: Path, **options: Any) -> raytrainer.Trainer:
    args = make_args(raytrainer, directory, max_steps=1, activation_checkpointing=True, **options)
    return raytrainer.Trainer(model=model, args=args, train_dataset=make_samples(8))


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (None, (None, {})),
        ({"use_reentrant": False, "every_n_layers": 2}, ({"use_reentrant": False}, {"every_n_layers": 2})),
    ],
)
def test_the_former_name_of_the_method_is_called(asked: Any, given: Any, tmp_path: Path) -> None:
    model = WithFormerName()
    trainer_of(model, tmp_path, activation_checkpointing_kwargs=asked).train()
    assert model.options == given


def test_the_method_of_transformers_is_preferred(tmp_path: Path) -> None:
    trainer = trainer_of(make_model(), tmp_path)
    trainer.train()
    assert trainer.model.is_gradient_checkpointing


@pytest.mark.parametrize("num_ranks", [0, 2])
def test_a_model_without_either_is_refused_before_workers_start(num_ranks: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Plain has neither"):
        trainer_of(Plain(), tmp_path, num_ranks=num_ranks).train()
