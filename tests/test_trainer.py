"""What on a Trainer belongs to the process and what to the user, and which methods are entry points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import raytrainer
from raytrainer import ConfigurationError
from raytrainer.backends.unbound import UnboundAccelerator
from raytrainer.driver.entry_points import ENTRY_POINTS
from raytrainer.wire.pickling import pack, unpack
from tests.parity.twins import LIBRARIES, make_samples, make_trainer


@pytest.fixture
def trained(tmp_path: Path) -> raytrainer.Trainer:
    trainer = make_trainer(raytrainer, tmp_path, max_steps=1, eval_strategy="steps", eval_steps=1)
    trainer.train()
    trainer.evaluate()
    return trainer


def test_no_attribute_of_the_base_class_comes_back_as_the_users(trained: raytrainer.Trainer):
    assert trained._user_attributes() == {}


def test_what_a_subclass_sets_before_and_after_the_base_constructor_is_the_users(tmp_path: Path):
    class Mine(raytrainer.Trainer):
        def __init__(self, **options: Any) -> None:
            self.before = 1
            super().__init__(**options)
            self.after = 2

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            self.during = 3
            super().log(logs, start_time)

    template = make_trainer(raytrainer, tmp_path, max_steps=1, logging_steps=1)
    trainer = Mine(model=template.model, args=template.args, train_dataset=make_samples())
    trainer.train()
    assert trainer._user_attributes() == {"before": 1, "after": 2, "during": 3}


def test_no_process_state_is_sent(trained: raytrainer.Trainer):
    assert trained._process.session is not None
    arrived = unpack(pack(trained))
    assert arrived._process.session is None
    assert isinstance(arrived.accelerator, UnboundAccelerator)
    assert arrived.model_wrapped is arrived.model
    assert vars(arrived).keys() == vars(trained).keys()


@pytest.mark.parametrize("name", sorted(ENTRY_POINTS))
def test_each_entry_point_is_wrapped_in_the_base_class(name: str):
    assert getattr(raytrainer.Trainer, name)._is_entry_point


@pytest.mark.parametrize("kind", ["the trainer's loader", "a plain loader"])
def test_evaluation_loop_of_a_fresh_trainer_binds_it_and_gives_the_loss_of_evaluate(
    kind: str, tmp_path: Path
):
    trainer = make_trainer(raytrainer, tmp_path)
    loader = trainer.get_eval_dataloader()
    if kind == "a plain loader":
        loader = DataLoader(trainer.eval_dataset, batch_size=8, collate_fn=trainer.data_collator)
    found = trainer.evaluation_loop(loader, description="by hand")
    assert found.metrics is not None
    assert found.num_samples == len(trainer.eval_dataset)
    assert found.metrics["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], abs=1e-6)


def test_evaluation_loop_on_a_driver_refuses_a_loader_of_the_drivers_process(tmp_path: Path):
    trainer = make_trainer(raytrainer, tmp_path, num_ranks=2)
    with pytest.raises(ConfigurationError, match=r"evaluation_loop.*driver.*evaluate\("):
        trainer.evaluation_loop(trainer.get_eval_dataloader(), description="by hand")
    assert trainer._process.workers is None


@pytest.mark.parametrize("call", ["training_step", "store_flos", "_save_checkpoint"])
def test_a_hook_that_is_called_while_nothing_is_bound_says_so(call: str, tmp_path: Path):
    trainer = make_trainer(raytrainer, tmp_path)
    arguments: dict[str, tuple[Any, ...]] = {
        "training_step": (trainer.model, {"input_ids": torch.zeros(1, 2, dtype=torch.int64)}),
        "_save_checkpoint": (trainer.model, None),
    }
    with pytest.raises(ConfigurationError, match=r"nothing trains|not bound"):
        getattr(trainer, call)(*arguments.get(call, ()))


def test_the_loaders_have_the_batch_size_over_all_ranks_under_the_name_of_accelerate(tmp_path: Path):
    for library in LIBRARIES.values():
        trainer = make_trainer(
            library, tmp_path, per_device_train_batch_size=16, per_device_eval_batch_size=8
        )
        assert trainer.get_train_dataloader().total_batch_size == 16
        assert trainer.get_eval_dataloader().total_batch_size == 8
