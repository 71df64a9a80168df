"""Each field has the type that its annotation names; what is close to it is converted, and means what it says."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from raytrainer import ConfigurationError, TrainingArguments, WrongTypeError


@pytest.mark.parametrize(
    ("name", "given", "means"),
    [
        ("push_to_hub", "False", False),
        ("save_only_model", "False", False),
        ("bf16", "false", False),
        ("bf16", "no", False),
        ("bf16", "off", False),
        ("bf16", "0", False),
        ("bf16", 0, False),
        ("bf16", None, False),
        ("bf16", np.False_, False),
        ("save_only_model", "True", True),
        ("save_only_model", " yes ", True),
        ("save_only_model", 1, True),
        ("save_only_model", np.True_, True),
        ("disable_tqdm", "none", False),
        ("hub_private_repo", "null", None),
        ("max_steps", 5.0, 5),
        ("max_steps", "5", 5),
        ("max_steps", "1e3", 1000),
        ("max_steps", np.int64(5), 5),
        ("max_steps", torch.tensor(5), 5),
        ("save_total_limit", "none", None),
        ("learning_rate", "5e-5", 5e-5),
        ("learning_rate", 1, 1),
        ("learning_rate", np.float32(0.5), 0.5),
        ("warmup_steps", 10, 10),
        ("warmup_steps", "0.1", 0.1),
        ("max_grad_norm", float("inf"), float("inf")),
        ("run_name", 2024, "2024"),
        ("logging_dir", Path("logs"), "logs"),
        ("dataloader_multiprocessing_context", multiprocessing.get_context("spawn"), "spawn"),
        ("label_names", "labels", ["labels"]),
        ("label_names", ("a", "b"), ["a", "b"]),
        ("lr_scheduler_kwargs", '{"num_cycles": 2}', {"num_cycles": 2}),
        ("lr_scheduler_type", "cosine", transformers.SchedulerType.COSINE),
        ("eval_strategy", False, transformers.IntervalStrategy.NO),
        ("hub_token", True, None),
    ],
)
def test_a_value_means_what_it_says(name: str, given: object, means: object) -> None:
    companions: dict[str, Any] = {"hub_model_id": "me/model"} if name == "push_to_hub" else {}
    if name == "dataloader_multiprocessing_context":
        companions = {"dataloader_num_workers": 1}
    value = getattr(TrainingArguments(**{name: given, **companions}), name)
    assert value == means
    assert type(value) is type(means)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_text_for_an_earlier_name_means_what_it_says() -> None:
    assert TrainingArguments(evaluation_strategy="no", no_cuda="False").use_cpu is False


def test_fields_of_the_users_own_are_converted_and_never_refused() -> None:
    @dataclass
    class Own(TrainingArguments):
        flag: bool = True
        odd: int = field(default=None)  # type: ignore[assignment]
        word: "NotImported | None" = None  # noqa: F821, UP037

    made = Own(flag="False", odd="many", word=5)
    assert (made.flag, made.odd, made.word) == (False, "many", 5)
    assert Own().odd is None


def test_a_field_of_ours_is_checked_in_a_subclass_too() -> None:
    @dataclass
    class Own(TrainingArguments):
        """No field."""

    with pytest.raises(WrongTypeError, match="bf16='maybe' is text, but True or False was expected"):
        Own(bf16="maybe")


def test_the_error_is_that_of_a_wrong_type_and_of_a_wrong_value() -> None:
    with pytest.raises(TypeError):
        TrainingArguments(max_steps=1.5)
    with pytest.raises(ValueError, match="not a whole number"):
        TrainingArguments(max_steps=1.5)


def test_arguments_that_were_set_later_are_converted_when_they_are_checked() -> None:
    args = TrainingArguments()
    args.save_only_model = "False"  # type: ignore[assignment]
    args.check()
    assert args.save_only_model is False


def test_every_value_of_a_trainer_of_transformers_is_taken() -> None:
    theirs = transformers.TrainingArguments(output_dir="x", use_cpu=True, warmup_steps=0.1, save_steps=0.5)
    from raytrainer.arguments.convert import convert

    assert convert(theirs).warmup_steps == 0.1


def test_nul_is_in_no_path() -> None:
    with pytest.raises(ConfigurationError, match="NUL"):
        TrainingArguments("a\0b")
