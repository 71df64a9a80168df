"""Where a rank's elements lie in a full tensor, and how it takes them out of one."""

from __future__ import annotations

import pytest
import torch

from raytrainer.layout.shards import LocalShard


@pytest.mark.parametrize(
    ("shape", "start", "offsets"),
    [
        ((2, 3), 0, [0, 0]),
        ((2, 3), 6, [2, 0]),
        ((4,), 5, [5]),
        ((), 0, []),
        ((0, 3), 0, [0, 0]),
        ((2, 0), 0, [0, 0]),
    ],
)
def test_offsets_count_rows_of_a_matrix_and_elements_of_a_flat_run(shape, start, offsets):
    assert LocalShard(values=torch.zeros(shape), start=start).offsets == offsets


def test_rows_are_copied_out_of_the_full_tensor_in_the_shards_dtype():
    full = torch.arange(12, dtype=torch.float64).view(4, 3)
    shard = LocalShard(values=torch.zeros(2, 3), start=6)
    shard.copy_from(full)
    assert shard.values.dtype == torch.float32
    assert shard.values.tolist() == [[6, 7, 8], [9, 10, 11]]


def test_a_flat_run_may_begin_and_end_inside_rows():
    shard = LocalShard(values=torch.zeros(4), start=2)
    shard.copy_from(torch.arange(12.0).view(4, 3))
    assert shard.values.tolist() == [2, 3, 4, 5]


def test_a_copy_writes_into_memory_that_is_not_contiguous():
    memory = torch.zeros(3, 2)
    LocalShard(values=memory.t(), start=0).copy_from(torch.arange(6.0).view(2, 3))
    assert memory.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_an_empty_shard_takes_nothing():
    shard = LocalShard(values=torch.zeros(0, 3), start=12)
    shard.copy_from(torch.ones(4, 3))
    assert shard.values.numel() == 0
