"""What a trainer knows of its model: as in transformers after the constructor, and what is set stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import raytrainer
from raytrainer.wire.pickling import pack, unpack
from tests.parity.twins import LIBRARIES, make_args, make_model, make_samples, make_trainer

FOUND = ("label_names", "can_return_loss", "model_accepts_loss_kwargs", "is_model_parallel")
OWN: dict[str, Any] = {
    "label_names": ["labels", "weights"],
    "can_return_loss": True,
    "model_accepts_loss_kwargs": False,
    "label_smoother": None,
    "_signature_columns": ["input_ids", "labels", "weights"],
}


class Sets(raytrainer.Trainer):
    """Sets what a trainer finds in its model, and notes what it sees when it trains."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        vars_of(self, OWN)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen = {name: getattr(self, name) for name in OWN}
        return super().compute_loss(model, inputs, *args, **kwargs)


def vars_of(trainer: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(trainer, name, value)


def test_after_the_constructor_they_are_those_of_transformers(tmp_path: Path) -> None:
    found = [
        {name: getattr(make_trainer(library, tmp_path), name) for name in FOUND}
        for library in LIBRARIES.values()
    ]
    assert found[0] == found[1]
    assert found[0]["label_names"] == ["labels"]


def test_the_label_smoother_is_there_after_the_constructor(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, label_smoothing_factor=0.1)
    assert trainer.label_smoother.epsilon == 0.1


def test_a_multi_label_model_is_not_smoothed_and_the_constructor_says_so(tmp_path: Path) -> None:
    model = make_model()
    model.config.problem_type = "multi_label_classification"
    args = make_args(raytrainer, tmp_path, label_smoothing_factor=0.1)
    with pytest.warns(UserWarning, match=r"label_smoothing_factor=0\.1 is switched off") as told:
        trainer = raytrainer.Trainer(model=model, args=args, train_dataset=make_samples())
    assert trainer.label_smoother is None
    assert told[0].filename == __file__


@pytest.mark.parametrize("how", ["model", "model_init"])
def test_what_a_subclass_sets_is_there_when_it_trains(tmp_path: Path, how: str) -> None:
    args = make_args(raytrainer, tmp_path, max_steps=1, label_smoothing_factor=0.1)
    model: dict[str, Any] = (
        {"model": make_model()} if how == "model" else {"model_init": lambda: make_model()}
    )
    trainer = Sets(**model, args=args, train_dataset=make_samples())
    trainer.train()
    assert trainer.seen == OWN


def test_what_a_subclass_sets_travels(tmp_path: Path) -> None:
    args = make_args(raytrainer, tmp_path, max_steps=1)
    arrived = unpack(pack(Sets(model=make_model(), args=args, train_dataset=make_samples())))
    assert {name: getattr(arrived, name) for name in OWN} == OWN


def test_a_model_that_is_built_later_is_found_later(tmp_path: Path) -> None:
    args = make_args(raytrainer, tmp_path, max_steps=1)
    trainer = raytrainer.Trainer(model_init=lambda: make_model(), args=args, train_dataset=make_samples())
    assert trainer.label_names == []
    trainer.train()
    assert trainer.label_names == ["labels"]
    assert trainer.model_accepts_loss_kwargs
    assert type(trainer.model) is transformers.LlamaForCausalLM


def test_a_label_that_is_appended_stays(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, max_steps=1)
    trainer.label_names.append("weights")
    trainer.train()
    assert trainer.label_names == ["labels", "weights"]
