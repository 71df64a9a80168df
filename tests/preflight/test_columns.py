"""The driver checks whether the columns of a dataset fit the model."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from raytrainer import ConfigurationError
from raytrainer.preflight.calls import check_training
from tests.preflight.given import ODD, AnyModel, Rows, columns, facts


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
