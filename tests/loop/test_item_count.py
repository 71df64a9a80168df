"""``num_items_in_batch`` is given to what takes it, and left out where a call shows that it is rejected."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import raytrainer
from raytrainer.loop.item_count import takes_count
from tests.parity.twins import make_args, rows


class Strict(nn.Module):
    """Passes any keyword on to a function that takes none."""

    def __init__(self, *, accepts: bool | None = None) -> None:
        super().__init__()
        if accepts is not None:
            self.accepts_loss_kwargs = accepts
        torch.manual_seed(0)
        self.body = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        hidden = self.drop(self.norm(self.body(x)))
        return {"loss": self.loss(self.head(hidden)[:, 0], labels, **kwargs)}

    def loss(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (scores - labels).pow(2).mean()


class PassesOn(raytrainer.Trainer):
    """An override that takes any keyword, and passes it on to a model that takes none."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs, labels=labels, **kwargs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]


def make(kind: type, directory: Path, model: nn.Module, **given: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    samples = [
        {"x": torch.randn(3, generator=generator), "labels": torch.tensor(float(i % 2))} for i in range(24)
    ]
    options = {"num_train_epochs": 1, "gradient_accumulation_steps": 2, **given.pop("options", {})}
    return kind(
        model=model,
        args=make_args(raytrainer, directory, **options),
        train_dataset=samples,
        eval_dataset=samples,
        **given,
    )


def test_a_model_that_rejects_the_count_trains_as_one_that_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = make(raytrainer.Trainer, tmp_path / "said", Strict(accepts=False))
    said.train()
    assert caplog.text.count("without num_items_in_batch") == 0
    found = make(raytrainer.Trainer, tmp_path / "found", Strict())
    found.train()
    assert caplog.text.count("Strict is called without num_items_in_batch") == 1
    assert rows(found) == rows(said)
    for name, value in said.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name


def test_an_override_that_passes_the_count_on_to_what_rejects_it_is_called_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = make(raytrainer.Trainer, tmp_path / "said", Strict(accepts=False))
    said.train()
    found = make(PassesOn, tmp_path / "found", Strict())
    found.train()
    assert caplog.text.count("compute_loss is called without num_items_in_batch") == 1
    assert rows(found) == rows(said)


def test_a_model_that_rejects_the_count_can_be_evaluated_before_training(tmp_path: Path) -> None:
    trainer = make(raytrainer.Trainer, tmp_path, Strict())
    assert trainer.evaluate()["eval_loss"] > 0


def test_an_error_of_the_users_own_is_raised(tmp_path: Path) -> None:
    class Broken(Strict):
        def loss(self, scores: torch.Tensor, labels: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            raise TypeError("num_items_in_batch is a tensor, and I want a number")

    with pytest.raises(TypeError, match="I want a number"):
        make(raytrainer.Trainer, tmp_path, Broken()).train()


def takes_two(outputs: Any, labels: Any) -> None: ...
def takes_three(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> None: ...
def takes_any(outputs: Any, labels: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (takes_two, False),
        (takes_three, True),
        (takes_any, True),
        (functools.partial(takes_three, None), True),
        (nn.CrossEntropyLoss(), False),
        (max, True),
    ],
)
def test_a_signature_tells_whether_the_count_is_taken(function: Any, expected: bool) -> None:
    assert takes_count(function) is expected
