"""Batches of about the same length, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import datasets
import pytest
import torch

from raytrainer import ConfigurationError
from raytrainer.data.sample_lengths import sample_lengths
from raytrainer.seq2seq.sortish_sampler import SortishSampler

LENGTHS = torch.randint(1, 100, (1003,), generator=torch.Generator().manual_seed(3)).tolist()


def batches(sampler: SortishSampler, size: int) -> list[list[int]]:
    order = list(sampler)
    return [[LENGTHS[index] for index in order[start : start + size]] for start in range(0, len(order), size)]


def padding(batched: list[list[int]]) -> int:
    return sum(max(batch) * len(batch) - sum(batch) for batch in batched)


def test_every_sample_comes_once():
    assert sorted(SortishSampler(LENGTHS, batch_size=8, seed=1)) == list(range(len(LENGTHS)))


def test_batches_need_a_fraction_of_the_padding():
    unsorted = [LENGTHS[start : start + 8] for start in range(0, len(LENGTHS), 8)]
    assert padding(batches(SortishSampler(LENGTHS, batch_size=8, seed=1), 8)) < padding(unsorted) / 5


def test_the_longest_sample_is_in_the_first_batch():
    assert max(LENGTHS) in batches(SortishSampler(LENGTHS, batch_size=8, seed=1), 8)[0]


def test_epochs_differ_and_repeat():
    first, again = (SortishSampler(LENGTHS, batch_size=8, seed=1) for _ in range(2))
    order = list(first)
    assert list(again) == order
    first.set_epoch(1)
    assert list(first) != order


@pytest.mark.parametrize("count", [1, 7, 8])
def test_less_than_a_batch_is_a_batch(count):
    assert sorted(SortishSampler(LENGTHS[:count], batch_size=8, seed=1)) == list(range(count))


def test_lengths_come_from_the_column_else_from_the_main_input():
    rows = [{"input_ids": [1] * size, "length": size + 5} for size in (3, 1, 2)]
    for data in (rows, datasets.Dataset.from_list(rows)):
        assert sample_lengths(data, column="length", input_name=None, argument="sortish_sampler=True") == [
            8,
            6,
            7,
        ]
        assert sample_lengths(data, column="none", input_name=None, argument="sortish_sampler=True") == [
            3,
            1,
            2,
        ]
        with pytest.raises(ConfigurationError, match=r"neither 'none' \(length_column_name\) nor 'pixels'"):
            sample_lengths(data, column="none", input_name="pixels", argument="sortish_sampler=True")
