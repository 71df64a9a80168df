"""The keys of ``accelerator_config``: which are accepted, and which are refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers.trainer_pt_utils import AcceleratorConfig

from raytrainer import ConfigurationError, Trainer, TrainingArguments
from raytrainer.arguments.accelerator_config import REFUSED_KEYS, syncs_each_batch


@pytest.mark.parametrize("key", ["split_batches", "dispatch_batches"])
def test_a_key_is_taken(key: str) -> None:
    assert getattr(TrainingArguments(accelerator_config={key: True}).accelerator_config, key) is True


def test_uneven_batches_are_taken() -> None:
    args = TrainingArguments(accelerator_config={"even_batches": False})
    assert args.accelerator_config.even_batches is False


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"use_seedable_sampler": False}, {}, "ranks agree on the order"),
        ({"split_batches": True}, {"num_workers": 3}, "is not divisible by 3. Set it to a multiple of 3"),
        ({"split_batches": True}, {"auto_find_batch_size": True}, "make it smaller"),
        ({"even_batches": False}, {"average_tokens_across_devices": False}, "may be zero"),
        (
            {"even_batches": False},
            {"train_sampling_strategy": "batch_rebalance"},
            "one sample in every micro-batch",
        ),
        ({"even_batches": False}, {"dataloader_in_order": False}, "which micro-batch is the short one"),
        ({"dispatch_batches": True}, {"train_sampling_strategy": "batch_rebalance"}, "of different sizes"),
        ({"gradient_accumulation_kwargs": {"num_steps": 0}}, {}, "1 or more was expected"),
        ({"gradient_accumulation_kwargs": {"num_step": 2}}, {}, "num_steps and sync_each_batch can be set"),
        (
            {"gradient_accumulation_kwargs": {"num_steps": 2}},
            {"gradient_accumulation_steps": 3},
            "contradict each other",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(config: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TrainingArguments(accelerator_config=config, **options)


def test_a_config_object_is_taken() -> None:
    given = AcceleratorConfig(split_batches=True, use_configured_state=True)
    assert TrainingArguments(accelerator_config=given).accelerator_config.split_batches is True


class TestUseConfiguredState:
    """Arguments alone may ask for it; a Trainer needs what the arguments ask for."""

    @pytest.fixture(autouse=True)
    def no_state(self) -> Iterator[None]:
        AcceleratorState._reset_state(reset_partial_state=True)
        yield
        AcceleratorState._reset_state(reset_partial_state=True)

    def trainer(self, directory: Path, **options: Any) -> Trainer:
        config = {"use_configured_state": True}
        args = TrainingArguments(
            output_dir=str(directory), use_cpu=True, accelerator_config=config, num_workers=0, **options
        )
        return Trainer(model=torch.nn.Linear(2, 2), args=args)

    def test_without_a_state_it_asks_for_nothing(self, tmp_path: Path) -> None:
        assert self.trainer(tmp_path).args.accelerator_config.use_configured_state is True

    def test_a_state_that_is_asked_for_is_taken(self, tmp_path: Path) -> None:
        Accelerator(cpu=True, mixed_precision="bf16")
        assert self.trainer(tmp_path, bf16=True).args.bf16

    def test_a_state_of_another_precision_is_refused(self, tmp_path: Path) -> None:
        Accelerator(cpu=True, mixed_precision="bf16")
        with pytest.raises(ConfigurationError, match="the precision 'bf16' where they ask for 'no'"):
            self.trainer(tmp_path)


def test_every_refused_key_is_one_of_the_configs() -> None:
    config = TrainingArguments().accelerator_config
    for key, (harmless, _) in REFUSED_KEYS.items():
        assert getattr(config, key) in harmless


def test_the_number_of_accumulated_micro_batches_is_taken_from_it() -> None:
    options = {
        "num_steps": 4,
        "sync_each_batch": True,
        "adjust_scheduler": False,
        "sync_with_dataloader": False,
    }
    args = TrainingArguments(accelerator_config={"gradient_accumulation_kwargs": options})
    assert args.gradient_accumulation_steps == 4
    assert syncs_each_batch(args)
    args.check()


def test_a_split_batch_is_a_part_of_one_in_each_process() -> None:
    args = TrainingArguments(
        num_workers=4,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=16,
        accelerator_config={"split_batches": True},
    )
    assert (args.train_batch_size, args.eval_batch_size) == (2, 4)


def test_a_dict_that_was_set_later_is_checked_too() -> None:
    args = TrainingArguments()
    args.accelerator_config = {"use_seedable_sampler": False}
    with pytest.raises(ConfigurationError, match="use_seedable_sampler"):
        args.check()
