"""What must hold before train(), evaluate() and predict() start anything."""

from __future__ import annotations

import contextlib

import pytest
from datasets import Dataset
from datasets.distributed import split_dataset_by_node

from raytrainer import ConfigurationError, Trainer, TrainingArguments
from raytrainer.errors import WrongTypeError
from raytrainer.preflight.calls import check_call, check_evaluation, check_training
from raytrainer.preflight.construction import check_trainer
from tests.preflight.given import GOOD, ODD, Model, Rows, Stream, facts


def test_a_sound_trainer_passes():
    sound = facts({"eval_strategy": "epoch"}, eval_dataset={"a": GOOD, "b": GOOD})
    check_trainer(sound)
    check_training(sound)
    check_evaluation(sound)
    check_evaluation(sound, "a")


@pytest.mark.parametrize("model", ["name/of-a-model", Model()])
def test_model_may_be_a_name_or_a_module(model):
    check_trainer(facts(model=model))
    check_training(facts(model=model))


@pytest.mark.parametrize(
    ("options", "given", "words"),
    [
        ({}, {"train_dataset": None}, "got no train_dataset"),
        ({}, {"train_dataset": Stream()}, "Stream without a length.*Set max_steps"),
        ({"num_train_epochs": 0}, {}, "leave nothing to train"),
    ],
)
def test_broken_training_is_refused(options, given, words):
    with pytest.raises(ConfigurationError, match=words):
        check_training(facts(options, **given))


def test_a_stream_that_was_split_by_node_is_refused_on_several_workers():
    rows = [{"input_ids": [1], "labels": [1]}] * 4
    split = split_dataset_by_node(Dataset.from_list(rows).to_iterable_dataset(2), rank=1, world_size=2)
    check_training(facts({"max_steps": 1}, train_dataset=split))
    with pytest.raises(ConfigurationError, match=r"train_dataset was split by node \(rank 1 of 2\)"):
        check_training(facts({"max_steps": 1, "num_workers": 2}, train_dataset=split))


def test_a_stream_with_max_steps_passes_unread():
    check_training(facts({"max_steps": 3}, train_dataset=Stream()))


def test_a_loader_of_the_users_own_needs_no_dataset():
    given = {"train_dataset": None, "overrides": frozenset({"get_train_dataloader", "get_eval_dataloader"})}
    check_trainer(facts({"eval_strategy": "epoch"}, **given))
    check_training(facts({"eval_strategy": "epoch"}, **given))
    check_evaluation(facts(**given))


def test_evaluation_needs_data():
    with pytest.raises(ConfigurationError, match="nothing to evaluate"):
        check_evaluation(facts())


def test_evaluation_by_name_needs_that_name():
    with pytest.raises(ConfigurationError, match=r"'test' names no dataset.*\['dev'\]"):
        check_evaluation(facts(eval_dataset={"dev": GOOD}), "test")


@pytest.mark.parametrize(("dataset", "words"), [(Rows(), "has no sample"), (ODD, "has the columns")])
def test_data_given_to_a_call_is_checked(dataset, words):
    with pytest.raises(ConfigurationError, match=f"test_dataset {words}"):
        check_evaluation(facts(), dataset, keyword="test_dataset")


class WithExamples(Trainer):
    """As in scripts for question answering."""

    def evaluate(self, eval_dataset=None, eval_examples=None, ignore_keys=None, **kwargs):
        raise AssertionError("this is checked, and not run")


class HandsOn(Trainer):
    def evaluate(self, *args, **kwargs):
        raise AssertionError("this is checked, and not run")


@pytest.mark.parametrize(
    ("kind", "given", "ignored"),
    [
        (WithExamples, (GOOD, {"question": "of another type"}), None),
        (WithExamples, (GOOD, None, 5), 5),
        (HandsOn, (GOOD, ["hidden_states"]), None),
        (HandsOn, (GOOD, 5), 5),
    ],
)
def test_arguments_of_an_override_are_known_by_its_own_names(tmp_path, kind, given, ignored):
    trainer = kind(Model(), TrainingArguments(output_dir=str(tmp_path)))
    told = pytest.raises(WrongTypeError, match="ignore_keys=5") if ignored else contextlib.nullcontext()
    with told:
        check_call(trainer, "evaluate", given, {})
