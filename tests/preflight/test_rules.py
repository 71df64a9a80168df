"""What must hold between arguments, model and data before anything is started."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.distributed import split_dataset_by_node
from torch import nn

from raytrainer import ConfigurationError, Seq2SeqTrainingArguments, TrainingArguments
from raytrainer.preflight.rules import (
    TrainerFacts,
    check_evaluation,
    check_trainer,
    check_training,
    overrides_of,
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.layer(input_ids)


class AnyModel(Model):
    def forward(self, input_ids: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        return self.layer(input_ids)


class Rows(torch.utils.data.Dataset):
    def __init__(self, *rows: object) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> object:
        random.random(), np.random.rand(), torch.rand(1)
        return self.rows[index]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        raise AssertionError("a stream was read")


GOOD = Rows({"input_ids": [1.0, 2.0], "labels": 1, "extra": 3})
ODD = Rows({"x": 1, "y": 2})


def facts(options: dict | None = None, **given: object) -> TrainerFacts:
    given = {"model": Model(), "train_dataset": GOOD, **given}
    return TrainerFacts(args=TrainingArguments(**(options or {})), **given)


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


def test_model_may_come_from_a_function():
    check_trainer(facts(model=None, model_init=Model))


@pytest.mark.parametrize(
    ("options", "given", "words"),
    [
        ({}, {"model": None}, "neither model= nor model_init="),
        ({}, {"model_init": Model}, "model= and model_init="),
        ({}, {"model": None, "model_init": 3}, "model_init= is a int"),
        ({}, {"model": 3}, "model= is a int"),
        (
            {},
            {"model": None, "model_init": Model, "optimizers": (object(), None)},
            "optimizers= was given with",
        ),
        (
            {},
            {"model": None, "model_init": Model, "optimizers": (None, object())},
            "optimizers= was given with",
        ),
        (
            {},
            {"optimizers": (object(), None), "optimizer_cls_and_kwargs": (torch.optim.SGD, {})},
            "optimizer_cls_and_kwargs",
        ),
        ({"eval_strategy": "epoch"}, {}, "eval_strategy='epoch' evaluates.*no eval_dataset"),
        ({"eval_on_start": True}, {}, "eval_on_start=True evaluates"),
        ({"batch_eval_metrics": True}, {"compute_metrics": lambda pred: {}}, r"yours takes \['pred'\]"),
        ({}, {"data_collator": 3}, "data_collator= is a int"),
        ({}, {"train_dataset": Rows()}, "train_dataset has no sample"),
        ({}, {"eval_dataset": {"good": GOOD, "none": Rows()}}, r"eval_dataset\['none'\] has no sample"),
        ({}, {"train_dataset": Dataset.from_dict({"input_ids": []})}, "train_dataset has no sample"),
    ],
)
def test_broken_trainer_is_refused(options, given, words):
    with pytest.raises(ConfigurationError, match=words):
        check_trainer(facts(options, **given))


@pytest.mark.parametrize(
    ("name", "hook"),
    [("predict_with_generate", "prediction_step"), ("sortish_sampler", "_get_train_sampler")],
)
def test_what_only_the_seq2seq_trainer_does_is_refused_elsewhere(name, hook):
    args = Seq2SeqTrainingArguments(**{name: True})
    given = {"args": args, "model": Model(), "train_dataset": GOOD}
    with pytest.raises(ConfigurationError, match=f"{name}=True asks for what the Seq2SeqTrainer does"):
        check_trainer(TrainerFacts(**given))
    check_trainer(TrainerFacts(**given, heeds=frozenset({name})))
    check_trainer(TrainerFacts(**given, overrides=frozenset({hook})))


def test_metrics_that_know_the_last_batch_pass():
    check_trainer(
        facts(
            {"batch_eval_metrics": True}, compute_metrics=lambda pred, compute_result: {}, eval_dataset=GOOD
        )
    )


def test_arguments_changed_after_construction_are_checked_again():
    broken = facts()
    broken.args.save_on_each_node = True
    with pytest.raises(ConfigurationError, match="save_on_each_node"):
        check_trainer(broken)


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


def columns(**values: object) -> Dataset:
    return Dataset.from_dict({name: [value] for name, value in values.items()})


@pytest.mark.parametrize("dataset", [columns(text="a", target=1), Rows({"text": "a", "target": 1})])
def test_dataset_without_a_column_for_the_model_lists_both(dataset):
    with pytest.raises(ConfigurationError, match=r"\['target', 'text'\].*\['input_ids', 'labels'\]"):
        check_training(facts(train_dataset=dataset))


@pytest.mark.parametrize("dataset", [columns(input_ids=[1.0], spare=2), Rows({"input_ids": 1, "spare": 2})])
def test_column_that_the_model_does_not_take_is_named_when_all_are_kept(dataset):
    with pytest.raises(ConfigurationError, match=r"columns that the model does not take: \['spare'\]"):
        check_training(facts({"remove_unused_columns": False}, train_dataset=dataset))


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, {"train_dataset": columns(input_ids=[1.0], label=1, spare=2)}),
        ({}, {"train_dataset": columns(label=1)}),
        ({"label_names": ["target"]}, {"train_dataset": columns(target=1)}),
        ({"remove_unused_columns": False}, {"train_dataset": columns(input_ids=[1.0], label=1)}),
        (
            {"remove_unused_columns": False},
            {"train_dataset": columns(input_ids=[1.0], text="left out by the collator")},
        ),
        (
            {"remove_unused_columns": False},
            {"train_dataset": Rows({"input_ids": 1, "note": "x", "none": None})},
        ),
        ({"remove_unused_columns": False}, {"train_dataset": ODD, "model": AnyModel()}),
        ({"remove_unused_columns": False}, {"train_dataset": ODD, "data_collator": lambda rows: rows}),
        ({"remove_unused_columns": False}, {"train_dataset": ODD, "overrides": frozenset({"compute_loss"})}),
        ({}, {"train_dataset": ODD, "overrides": frozenset({"get_train_dataloader"})}),
        ({}, {"train_dataset": ODD, "model": "hub/name"}),
        ({}, {"train_dataset": Rows((1, 2))}),
        ({}, {"train_dataset": [{"input_ids": 1}]}),
        (
            {"remove_unused_columns": False},
            {"train_dataset": columns(image=1).with_transform(lambda rows: {"input_ids": rows["image"]})},
        ),
    ],
    ids=range(14),
)
def test_columns_that_fit_or_cannot_be_judged_pass(options, given):
    check_training(facts(options, **given))


def test_eval_columns_are_checked_when_evaluation_is_asked_for():
    check_training(facts(eval_dataset=ODD))
    with pytest.raises(ConfigurationError, match=r"eval_dataset\['odd'\] has the columns"):
        check_training(facts({"eval_strategy": "epoch"}, eval_dataset={"odd": ODD}))


def test_looking_at_the_first_sample_draws_no_random_number():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    given = facts()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    check_training(given)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_a_first_sample_that_only_workers_can_read_is_left_to_them():
    class Remote(Rows):
        def __getitem__(self, index: int) -> object:
            raise FileNotFoundError("/on/the/cluster")

    check_training(facts(train_dataset=Remote(1)))


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


def test_overrides_are_those_of_the_subclass():
    class Base:
        def compute_loss(self) -> None: ...

        def get_train_dataloader(self) -> None: ...

    class Mine(Base):
        def compute_loss(self) -> None: ...

    assert overrides_of(Mine, Base) == {"compute_loss"}
    assert overrides_of(Base, Base) == frozenset()
