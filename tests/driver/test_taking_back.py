"""What a task left behind on rank 0 comes back as far as it can be read; a result is never lost because of the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

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
        return super().compute_loss(model, inputs, *args, **kwargs)


def train(directory: Path) -> tuple[Keeper, Any]:
    args = raytrainer.TrainingArguments(
        output_dir=str(directory), num_workers=1, max_steps=2, use_cpu=True, save_strategy="no"
    )
    trainer = Keeper(model=make_model(), args=args, train_dataset=make_samples())
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
