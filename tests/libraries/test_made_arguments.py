"""Arguments of transformers are made again from the call that made them."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers

import raytrainer
from raytrainer.errors import ConfigurationError
from raytrainer.libraries.made_arguments import as_made, record_constructions
from tests.libraries.own_loop import make_arguments


@dataclass
class Derives(transformers.TrainingArguments):
    """Computes a field from the environment when it is constructed, as libraries do from the number of processes."""

    group_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size is None:
            self.group_size = 10 * len(str(self.output_dir))


@pytest.fixture(autouse=True)
def recorded() -> None:
    record_constructions()


def test_a_field_that_was_computed_is_computed_again(tmp_path: Path) -> None:
    made = as_made(Derives("abc", use_cpu=True, learning_rate=0.25))
    assert made.changes == {}
    again = dataclasses.replace(made, positional=("abcdef",)).make()
    assert (again.group_size, again.learning_rate) == (60, 0.25)


def test_a_field_that_was_changed_afterwards_is_changed_there_too(tmp_path: Path) -> None:
    args = make_arguments(tmp_path)
    args.learning_rate = 0.125
    args.lr_scheduler_kwargs = {"num_cycles": 2}
    again = pickle.loads(pickle.dumps(as_made(args))).make()
    assert (again.learning_rate, again.lr_scheduler_kwargs) == (0.125, {"num_cycles": 2})
    assert again.max_steps == args.max_steps


def test_arguments_whose_construction_nobody_saw_are_refused(tmp_path: Path) -> None:
    args: Any = make_arguments(tmp_path)
    del vars(args)["_constructed_with"]
    with pytest.raises(
        ConfigurationError, match=r"constructed before raytrainer\.on_ray.*Call on_ray\(\) first"
    ):
        as_made(args)


def test_arguments_of_raytrainer_are_not_recorded(tmp_path: Path) -> None:
    args = raytrainer.TrainingArguments(str(tmp_path), use_cpu=True)
    assert "_constructed_with" not in vars(args)
