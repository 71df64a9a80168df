"""What a task left behind on rank 0 comes back as far as it can be read; a result is never lost because of the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from tests.driver.same_process import SameProcessGroup, same_process
from tests.parity.twins import make_model, make_samples

__all__ = ["same_process"]


def refuse() -> None:
    raise ValueError("Default process group has not been initialized")


class Unreadable:
    """Can be packed, and not read."""

    def __reduce__(self) -> Any:
        return refuse, ()


class Unpackable:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


class Keeper(raytrainer.Trainer):
    """Keeps things that belong to the process that trains."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen = getattr(self, "seen", 0) + 1
        self.last_model = model
        self.unreadable = {"kept": [1, 2], "lost": Unreadable()}
        self.unpackable = Unpackable()
        self.last_optimizer = self.optimizer
        if hasattr(self, "warm_up"):
            del self.warm_up
        return super().compute_loss(model, inputs, *args, **kwargs)


def train(directory: Path, kind: Any = Keeper) -> tuple[Any, Any]:
    args = raytrainer.TrainingArguments(
        output_dir=str(directory), num_workers=1, max_steps=2, use_cpu=True, save_strategy="no"
    )
    trainer = kind(model=make_model(), args=args, train_dataset=make_samples())
    trainer.warm_up = [0.1]
    return trainer, trainer.train()


@pytest.fixture
def trained(tmp_path: Path, same_process: list[SameProcessGroup]) -> tuple[Keeper, Any]:
    return train(tmp_path)


def test_the_result_and_what_can_be_read_come_back(trained: tuple[Keeper, Any]) -> None:
    trainer, output = trained
    assert output.global_step == trainer.state.global_step == 2
    assert trainer.seen == 2


def test_what_cannot_be_read_packed_or_taken_out_of_its_process_is_left_out(
    trained: tuple[Keeper, Any],
) -> None:
    trainer, _ = trained
    assert not hasattr(trainer, "unpackable")
    assert not hasattr(trainer, "last_optimizer")
    assert getattr(trainer, "unreadable", {}).get("lost") is None


def test_what_a_hook_deleted_is_gone(trained: tuple[Keeper, Any]) -> None:
    trainer, _ = trained
    assert not hasattr(trainer, "warm_up")
    trainer.evaluate(make_samples(2))
    assert not hasattr(trainer, "warm_up")


def test_a_model_that_was_kept_is_the_drivers_own(trained: tuple[Keeper, Any]) -> None:
    trainer, _ = trained
    assert trainer.last_model is trainer.model


def test_one_warning_names_what_was_left_out(
    tmp_path: Path, same_process: list[SameProcessGroup], capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path)
    printed = "".join(capsys.readouterr())
    warnings = re.findall(r"stays on the workers: .*", printed)
    assert len(warnings) == 1
    for name in ("trainer.unpackable", "trainer.last_optimizer"):
        assert name in printed


class Teaching(Keeper):
    """Has a module that is known by two names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.teacher = torch.nn.Linear(1, 1)
        self.by_name = {"first": self.teacher}

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            self.teacher.weight.fill_(7)
        self.made = torch.nn.Linear(1, 1)
        self.all_made = [self.made]
        return super().compute_loss(model, inputs, *args, **kwargs)


def test_a_module_stays_one_object_under_all_its_names(
    tmp_path: Path, same_process: list[SameProcessGroup]
) -> None:
    trainer, _ = train(tmp_path, Teaching)
    assert trainer.by_name["first"] is trainer.teacher
    assert trainer.teacher.weight.item() == 7
    assert trainer.all_made[0] is trainer.made


def test_a_module_that_a_script_holds_has_what_the_workers_made_of_it(
    tmp_path: Path, same_process: list[SameProcessGroup]
) -> None:
    trainer, _ = train(tmp_path, Teaching)
    held = trainer.teacher
    with torch.no_grad():
        held.weight.fill_(3)
    trainer.train()
    assert trainer.teacher is held
    assert held.weight.item() == 7
