"""``Trainer(args=...)`` converts its arguments to this package's class, and each check runs once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

import raytrainer
from raytrainer import ConfigurationError, Seq2SeqTrainingArguments, TrainingArguments
from raytrainer.arguments import training_arguments
from raytrainer.arguments.convert import as_training_arguments

CHECKS = (
    "check_values",
    "check_supported",
    "evaluation_has_an_interval",
    "check_combinations",
    "check_placement",
    "check_kernels",
    "check_trackio",
    "check_hub",
    "check_accelerator_config",
)
ONCE = dict.fromkeys(CHECKS, 1)


def test_our_own_are_kept():
    args = TrainingArguments()
    assert as_training_arguments(args) is args


def test_nothing_becomes_defaults():
    assert as_training_arguments(None).output_dir == "tmp_trainer"


def test_plain_arguments_of_transformers_are_converted():
    theirs = transformers.TrainingArguments(output_dir="x", learning_rate=1e-3, use_cpu=True)
    args = as_training_arguments(theirs)
    assert type(args) is TrainingArguments
    assert (args.learning_rate, args.use_cpu, args.logging_nan_inf_filter) == (1e-3, True, False)


class Foreign(transformers.TrainingArguments):
    """A user's subclass."""


@pytest.mark.parametrize("foreign", ["out", {"output_dir": "x"}, Foreign("x")])
def test_what_cannot_be_converted_is_refused(foreign):
    with pytest.raises(ConfigurationError, match=r"raytrainer\.TrainingArguments"):
        as_training_arguments(foreign)


def test_arguments_changed_after_construction_are_checked_again():
    args = TrainingArguments()
    args.save_on_each_node = True
    with pytest.raises(ConfigurationError, match="save_on_each_node"):
        as_training_arguments(args)


def test_what_rays_objects_say_is_checked():
    with pytest.raises(ConfigurationError, match="num_workers=-1"):
        as_training_arguments(None, SimpleNamespace(num_workers=-1))


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each check runs."""
    ran: Counter[str] = Counter()

    def counted(name: str, check: Callable[[object], None]) -> Callable[[object], None]:
        def counting(args: object) -> None:
            ran[name] += 1
            check(args)

        return counting

    for name in CHECKS:
        monkeypatch.setattr(training_arguments, name, counted(name, getattr(training_arguments, name)))
    return ran


@pytest.mark.parametrize("kind", [TrainingArguments, Seq2SeqTrainingArguments, raytrainer.SFTConfig])
def test_constructing_arguments_runs_each_check_once(counts: Counter[str], kind: type) -> None:
    kind(output_dir="out")
    assert counts == ONCE


@pytest.mark.parametrize(
    ("trainer", "args"),
    [
        (raytrainer.Trainer, TrainingArguments),
        (raytrainer.Trainer, transformers.TrainingArguments),
        (raytrainer.Seq2SeqTrainer, Seq2SeqTrainingArguments),
    ],
)
def test_constructing_a_trainer_runs_each_check_once_more(
    counts: Counter[str], trainer: type, args: type, tmp_path: Path
) -> None:
    given = args(output_dir=str(tmp_path), use_cpu=True)
    counts.clear()
    trainer(torch.nn.Linear(1, 1), given)
    assert counts == ONCE


def test_constructing_a_trainer_without_arguments_runs_each_check_once(
    counts: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raytrainer.Trainer(torch.nn.Linear(1, 1))
    assert counts == ONCE
