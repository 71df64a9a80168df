"""Which layout answers for a tensor: one that a backend registers, or the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raytrainer.layout import tensor_layout
from raytrainer.layout.shards import LocalShard
from raytrainer.layout.tensor_layout import (
    TensorLayout,
    full_shape,
    full_tensor,
    has_distributed_parameters,
    is_distributed,
    is_sharded,
    layout_of,
    local_shard,
    publish,
    register_layout,
    trained_dtype,
    writable,
)


class Marked(TensorLayout):
    """Halves of tensors that carry a mark."""

    def __init__(self):
        self.published: list[nn.Module] = []

    def covers(self, tensor):
        return hasattr(tensor, "is_half")

    def is_sharded(self, tensor):
        return True

    def full_shape(self, tensor):
        return torch.Size((2 * tensor.shape[0], *tensor.shape[1:]))

    def local_shard(self, tensor):
        return LocalShard(values=tensor.detach(), start=tensor.numel())

    def full_tensor(self, tensor):
        return torch.cat([tensor, tensor]).detach()

    def publish(self, model):
        self.published.append(model)


@pytest.fixture
def marked(monkeypatch):
    monkeypatch.setattr(tensor_layout, "_REGISTERED", [])
    layout = Marked()
    register_layout(layout)
    return layout


@pytest.fixture
def half():
    parameter = nn.Parameter(torch.ones(2, 3))
    parameter.is_half = True
    return parameter


def test_a_plain_tensor_is_whole_on_every_rank():
    tensor = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    assert not is_distributed(tensor)
    assert not is_sharded(tensor)
    assert full_shape(tensor) == (2, 3)
    assert trained_dtype(tensor) == torch.float64
    assert full_tensor(tensor).data_ptr() == tensor.data_ptr()
    assert not full_tensor(tensor).requires_grad


def test_the_first_rank_writes_what_every_rank_holds(monkeypatch):
    assert not local_shard(torch.ones(2)).is_copy
    monkeypatch.setattr(tensor_layout, "current_rank", lambda: 1)
    assert local_shard(torch.ones(2)).is_copy


def test_a_registered_layout_answers_for_the_tensors_that_it_covers(marked, half):
    assert layout_of(half) is marked
    assert is_distributed(half)
    assert is_sharded(half)
    assert full_shape(half) == (4, 3)
    assert local_shard(half).start == 6
    assert full_tensor(half).shape == (4, 3)


def test_a_registered_layout_leaves_other_tensors_alone(marked):
    assert layout_of(torch.ones(1)) is not marked
    assert not is_distributed(torch.ones(1))


def test_one_distributed_parameter_makes_a_model_distributed(marked, half):
    model = nn.Linear(2, 2)
    assert not has_distributed_parameters(model)
    model.extra = half
    assert has_distributed_parameters(model)


def test_parameters_are_writable_unless_a_layout_says_how(half):
    with writable(half), torch.no_grad():
        half.zero_()
    assert half.sum() == 0


def test_publishing_reaches_every_registered_layout(marked):
    model = nn.Linear(1, 1)
    publish(model)
    assert marked.published == [model]
