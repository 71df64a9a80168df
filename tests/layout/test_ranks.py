"""Ranks, and sums over them, with and without a process group."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from raytrainer.layout.ranks import current_rank, join_group, num_ranks, sum_over_group


@pytest.fixture
def no_group():
    """A group lasts as long as its process, and an earlier test may have made one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def group_of_one(no_group):
    join_group(torch.device("cpu"))
    yield
    dist.destroy_process_group()


def test_without_a_group_this_process_is_the_only_rank(no_group):
    assert (current_rank(), num_ranks()) == (0, 1)


def test_a_group_of_one_is_made_where_there_is_none(group_of_one):
    assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
    assert (current_rank(), num_ranks()) == (0, 1)


def test_a_group_that_exists_is_kept(group_of_one):
    before = dist.group.WORLD
    join_group(torch.device("cpu"))
    assert dist.group.WORLD is before


def test_a_sum_leaves_its_argument_alone(group_of_one):
    value = torch.tensor([1.0, 2.0])
    total = sum_over_group(value)
    assert total is not value
    assert total.tolist() == [1.0, 2.0]
