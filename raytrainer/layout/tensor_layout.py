"""How a tensor is distributed over the ranks: its full shape, the shard of this rank, and how to gather it.

A tensor is complete on every rank, a DTensor, or laid out by a library that a backend uses. Such a backend subclasses
``TensorLayout`` and registers an instance, so that checkpoints, optimizers and the loop handle its tensors without
knowing the library.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from raytrainer.layout.ranks import current_rank
from raytrainer.layout.shards import LocalShard


class TensorLayout(ABC):
    """How the tensors that it covers are distributed; the defaults fit tensors that every rank holds in full."""

    is_distributed = True
    """Reading or writing the full tensor takes all ranks."""

    @abstractmethod
    def covers(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor ``[...]`` has this layout."""

    @abstractmethod
    def is_sharded(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor ``[...]`` itself is a shard; otherwise only its master copy may be one."""

    def full_shape(self, tensor: torch.Tensor) -> torch.Size:
        """The shape ``[full shape]`` of the full tensor."""
        return tensor.shape

    def trained_dtype(self, tensor: torch.Tensor) -> torch.dtype:
        """The dtype in which a tensor ``[...]`` is trained and saved: that of the master copy, if there is one."""
        return tensor.dtype

    @abstractmethod
    def local_shard(self, tensor: torch.Tensor) -> LocalShard:
        """This rank's part of a tensor, flattened ``[elements]``, in the precision that is trained."""

    @abstractmethod
    def full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """All ranks: the tensor ``[full shape]`` on this rank's device, in the precision that is trained."""

    def writable(self, parameter: torch.Tensor) -> AbstractContextManager[None]:
        """All ranks: inside, an in-place update of the parameter ``[...]`` is kept."""
        return nullcontext()

    def publish(self, model: nn.Module) -> None:  # noqa: B027 - there need not be master copies
        """All ranks: copy changed master copies into the parameters that the model computes with."""


class _Whole(TensorLayout):
    is_distributed = False

    def covers(self, tensor: torch.Tensor) -> bool:
        return True

    def is_sharded(self, tensor: torch.Tensor) -> bool:
        return False

    def local_shard(self, tensor: torch.Tensor) -> LocalShard:
        return LocalShard(values=tensor.detach(), is_copy=current_rank() != 0)

    def full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach()


class _Distributed(TensorLayout):
    """A DTensor, replicated or sharded along its first dimension."""

    def covers(self, tensor: torch.Tensor) -> bool:
        return isinstance(tensor, DTensor)

    def is_sharded(self, tensor: torch.Tensor) -> bool:
        return True

    def local_shard(self, tensor: torch.Tensor) -> LocalShard:
        assert isinstance(tensor, DTensor)
        assert all(placement.is_replicate() or placement.is_shard(0) for placement in tensor.placements)
        coordinate = tensor.device_mesh.get_coordinate()
        assert coordinate is not None
        is_copy = any(
            placement.is_replicate() and position
            for placement, position in zip(tensor.placements, coordinate, strict=True)
        )
        _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        start = offset[0] * math.prod(tensor.shape[1:]) if offset else 0
        return LocalShard(values=tensor.to_local().detach(), start=start, is_copy=is_copy)

    def full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        assert isinstance(tensor, DTensor)
        return tensor.full_tensor().detach()


_WHOLE, _DTENSOR = _Whole(), _Distributed()
_REGISTERED: list[TensorLayout] = []


def register_layout(layout: TensorLayout) -> None:
    """Make the layout of a backend's tensors known; done once, when the backend is imported."""
    _REGISTERED.append(layout)


def layout_of(tensor: torch.Tensor) -> TensorLayout:
    """Return the layout of a tensor ``[...]``."""
    for layout in (*_REGISTERED, _DTENSOR):
        if layout.covers(tensor):
            return layout
    return _WHOLE


def is_distributed(tensor: torch.Tensor) -> bool:
    """Whether the tensor ``[...]``, or the master copy that is trained in its place, is split over ranks."""
    return layout_of(tensor).is_distributed


def has_distributed_parameters(model: nn.Module) -> bool:
    """Whether any parameter of a model is distributed, so that saving the model takes all ranks."""
    return any(is_distributed(parameter) for parameter in model.parameters())


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this rank holds only a part of the tensor ``[...]`` that the model computes with."""
    return layout_of(tensor).is_sharded(tensor)


def full_shape(tensor: torch.Tensor) -> torch.Size:
    """Return the shape ``[full shape]`` of a tensor of which this rank may hold a part."""
    return layout_of(tensor).full_shape(tensor)


def trained_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype in which a tensor ``[...]`` is trained and saved: that of the master copy, if there is one."""
    return layout_of(tensor).trained_dtype(tensor)


def local_shard(tensor: torch.Tensor) -> LocalShard:
    """Return this rank's part of a tensor, flattened ``[elements]``, in the precision that is trained."""
    return layout_of(tensor).local_shard(tensor)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """All ranks: the tensor ``[full shape]`` on this rank's device, in the precision that is trained."""
    return layout_of(tensor).full_tensor(tensor)


def writable(parameter: torch.Tensor) -> AbstractContextManager[None]:
    """All ranks: inside, an optimizer may update the parameter ``[...]`` in place, and the update is kept."""
    return layout_of(parameter).writable(parameter)


def publish(model: nn.Module) -> None:
    """All ranks: after master copies were written, copy them into the parameters that the model computes with."""
    for layout in _REGISTERED:
        layout.publish(model)
