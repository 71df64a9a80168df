"""The driver tries the first samples, and leaves everything as it was."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, DataCollatorForLanguageModeling
from transformers import default_data_collator as collate

from raytrainer import ConfigurationError
from raytrainer.preflight.first_batch import check_first_batches
from tests.preflight.given import GOOD, Model, Rows, Stream, facts


def check(*rows: object, **given: object) -> None:
    check_first_batches(facts(**{"collate": collate, **given}), "train_dataset", Rows(*rows))


class Drawing(Dataset):
    """Draws from every source, and counts."""

    def __init__(self) -> None:
        self.reads = 0
        self.random, self.numpy, self.torch = random.Random(0), np.random.default_rng(0), torch.Generator()

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, object]:
        self.reads += 1
        drawn = [self.random.random(), self.numpy.random(), float(torch.rand(1, generator=self.torch))]
        return {
            "input_ids": [random.random() + np.random.rand() + float(torch.rand(1)), sum(drawn)],
            "labels": 1,
        }


def test_nothing_that_is_drawn_or_counted_is_left_behind():
    dataset, untouched, given = Drawing(), Drawing(), facts(collate=collate)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [untouched[index] for index in range(3)]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    check_first_batches(given, "train_dataset", dataset)
    assert dataset.reads == 0
    assert [dataset[index] for index in range(3)] == expected


class Tokenizer:
    mask_token = "m"

    def pad(self, samples: object, **options: object) -> object:
        raise ValueError("no padding here")


def test_a_generator_that_a_collator_would_make_is_not_made():
    made = DataCollatorForLanguageModeling.__new__(DataCollatorForLanguageModeling)
    vars(made).update(
        tokenizer=Tokenizer(), mlm=True, seed=3, generator=None, pad_to_multiple_of=None, return_tensors="pt"
    )
    made.return_tensors = "pt"
    with pytest.raises(ConfigurationError, match="raised ValueError: no padding here"):
        check({"input_ids": [1, 2]}, collate=made, options={})
    assert made.generator is None


def test_a_sample_that_cannot_be_read_here_is_left_to_the_workers():
    class Elsewhere(Rows):
        def __getitem__(self, index: int) -> object:
            raise FileNotFoundError("on another machine")

    check_first_batches(facts(collate=collate), "train_dataset", Elsewhere(1))


def test_streams_are_not_read():
    check_first_batches(facts(collate=collate), "train_dataset", Stream())


@pytest.mark.parametrize("hook", ["get_train_dataloader", "_get_train_sampler", "compute_loss"])
def test_hooks_of_the_user_may_take_anything(hook):
    collates = {} if hook == "compute_loss" else {"collate": lambda samples: 1 / 0}
    check({"z": [1.0]}, overrides=frozenset({hook}), **collates)


def test_a_collator_that_needs_the_workers_machine_is_left_to_them():
    def on_gpu(samples: object) -> object:
        raise RuntimeError("No CUDA GPUs are available")

    check({"input_ids": [1.0, 2.0]}, collate=on_gpu)


def test_a_collator_of_every_size_is_called_with_few_samples_only():
    sizes: list[int] = []

    def counted(samples: list[object]) -> dict[str, object]:
        sizes.append(len(samples))
        return collate(samples)

    check(*[{"input_ids": [1.0, 2.0], "labels": 1}] * 100, collate=counted)
    assert sizes == [8]


@pytest.mark.parametrize(
    ("rows", "given", "words"),
    [
        (
            [{"input_ids": [1.0, 2.0], "labels": 1}, {"input_ids": [1.0, 2.0]}],
            {},
            "but sample 1 {'input_ids'",
        ),
        ([{"input_ids": [1.0, 2.0]}, {"input_ids": [1.0]}], {}, "make no batch"),
        ([{"input_ids": "text"}], {}, "first batch of train_dataset is empty"),
        ([{"labels": 1}], {}, "missing a required argument: 'input_ids'.*has \\['labels'\\]"),
        ([GOOD[0]], {"collate": lambda samples: samples}, "made a list of the first samples"),
        ([GOOD[0]], {"collate": lambda samples: None}, "made None of the first samples"),
        ([GOOD[0]], {"collate": lambda samples: {}}, "is empty"),
        ([GOOD[0]], {"collate": lambda samples: {"z": 1}}, "missing a required argument|unexpected keyword"),
        ([GOOD[0]], {"collate": lambda samples: samples[0]["absent"]}, "raised KeyError: 'absent'"),
        ([3, 4], {}, "make no batch"),
        ([None], {}, "make no batch"),
    ],
)
def test_samples_that_make_no_batch_of_the_model_are_refused(rows, given, words):
    with pytest.raises(ConfigurationError, match=words):
        check(*rows, **given)


@pytest.fixture(scope="module")
def bert() -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=10,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        num_labels=3,
    )
    return BertForSequenceClassification(config)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"input_ids": [1, 10], "labels": 0}, "has the token 10.*tokens 0 to 9"),
        ({"input_ids": [1, -1], "labels": 0}, "has the token -1"),
        ({"input_ids": [1, 2], "labels": 3}, "has the label 3.*num_labels=3"),
        (
            {"input_ids": [1, 2], "labels": [0, 1]},
            r"labels .* have the shape \[1, 2\].*one label for each of 1",
        ),
    ],
)
def test_what_a_model_of_transformers_cannot_take_is_refused(bert, row, words):
    with pytest.raises(ConfigurationError, match=words):
        check(row, model=bert)


def test_what_it_can_take_passes(bert):
    check({"input_ids": [1, 9], "labels": 2}, model=bert)
    check({"input_ids": [1, 9], "labels": [0.0, 1.0, 0.0]}, model=bert)
    check({"input_ids": [1.0, 9.0], "labels": 2}, model=Model())


def pads_numbers_alone(rows: list[dict[str, object]]) -> dict[str, object]:
    """As a collator that pads every column that it gets."""
    if any("text" in row for row in rows):
        raise ValueError("text cannot be padded")
    return collate(rows)


@pytest.mark.parametrize("model", [{"model": None, "model_init": Model}, {"model": "a/name"}])
def test_columns_that_a_model_to_be_made_may_not_take_are_left_to_the_workers(model):
    row = {"x": [1.0, 2.0], "text": "dropped"}
    given = {"collate": pads_numbers_alone, **model}
    check_first_batches(facts(**given), "train_dataset", Rows(row))
    kept = facts({"remove_unused_columns": False}, **given)
    with pytest.raises(ConfigurationError, match="make no batch"):
        check_first_batches(kept, "train_dataset", Rows(row))
