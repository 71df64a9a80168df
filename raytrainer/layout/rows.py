"""Rows of a parameter that is sharded over ranks: who holds which, and how they reach a rank that needs all of them.

A sharding backend splits a parameter along its first dimension as ``torch.chunk`` does: consecutive ranks hold
``ceil(rows / ranks)`` rows each, the last ones fewer or none. The ranks meant here are those that share one full
parameter; under hybrid sharding every replica does the same independently.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor


class RowShards:
    """How the rows of a parameter are spread over ranks.

    Args:
        parameter: A DTensor that is sharded by rows along one dimension of its mesh.
    """

    def __init__(self, parameter: DTensor) -> None:
        mesh = parameter.device_mesh
        (dimension,) = (
            number for number, placement in enumerate(parameter.placements) if placement.is_shard()
        )
        coordinate = mesh.get_coordinate()
        assert coordinate is not None
        self.group: dist.ProcessGroup = mesh.get_group(dimension)
        self.size = mesh.size(dimension)
        """Number of ranks that share the parameter."""
        self.rank = mesh.get_local_rank(dimension)
        self.is_replica = any(place for number, place in enumerate(coordinate) if number != dimension)
        """Another rank holds the same rows and is the one that counts them."""
        self.device = torch.device(mesh.device_type)
        self.shape = parameter.shape
        self.chunk = -(-parameter.shape[0] // self.size)
        """Rows per rank, before the last ones."""
        first = min(self.chunk * self.rank, parameter.shape[0])
        self.rows = slice(first, min(first + self.chunk, parameter.shape[0]))
        """The rows of this rank."""

    def global_rank(self, owner: int) -> int:
        """The global rank of one of the ranks that share the parameter."""
        return dist.get_global_rank(self.group, owner)

    def gather(self, local: torch.Tensor, owner: int) -> torch.Tensor | None:
        """All ranks: gather the rows on their owner.

        Args:
            local: This rank's rows, [rows, ...].
            owner: The rank, among those that share the parameter, that gets them all.

        Returns:
            [all rows, ...] on the owner; None elsewhere.
        """
        padded = self._padded(local)
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.rank == owner else None
        dist.gather(padded, parts, dst=self.global_rank(owner), group=self.group)
        return None if parts is None else torch.cat(parts)[: self.shape[0]]

    def scatter(self, full: torch.Tensor | None, owner: int, like: torch.Tensor) -> torch.Tensor:
        """All ranks: send each rank its rows.

        Args:
            full: [all rows, ...] on the owner; None elsewhere.
            owner: The rank, among those that share the parameter, that has them.
            like: [rows, ...] of this rank; gives shape, dtype and device of the result.

        Returns:
            [rows, ...] of this rank.
        """
        target = self._padded(torch.zeros_like(like))
        parts = None
        if self.rank == owner:
            assert full is not None
            rows = full.to(target.device, target.dtype)
            untyped: Any = rows
            split: tuple[torch.Tensor, ...] = untyped.split(self.chunk)
            parts = [self._padded(part) for part in split]
            parts += [torch.zeros_like(target) for _ in range(self.size - len(parts))]
        dist.scatter(target, parts, src=self.global_rank(owner), group=self.group)
        return target[: like.shape[0]].to(like.device)

    def broadcast(self, found: torch.Tensor | None, owner: int, shape: Iterable[int]) -> torch.Tensor:
        """All ranks: send a tensor of one rank to all ranks that share the parameter.

        Args:
            found: ``[*shape]``, fp32, on the owner; None elsewhere.
            owner: The rank, among those that share the parameter, that has it.
            shape: Its shape.

        Returns:
            The tensor on the device of the mesh.
        """
        if found is None:
            found = torch.empty(tuple(shape), device=self.device)
        found = found.to(self.device).contiguous()
        dist.broadcast(found, src=self.global_rank(owner), group=self.group)
        return found

    def sum_on_owner(self, part: torch.Tensor, owner: int) -> torch.Tensor | None:
        """All ranks: sum tensors ``[...]`` of one shape on the owner; None elsewhere."""
        part = part.to(self.device).contiguous()
        dist.reduce(part, dst=self.global_rank(owner), group=self.group)
        return part if self.rank == owner else None

    def _padded(self, local: torch.Tensor) -> torch.Tensor:
        padded = local.new_zeros((self.chunk, *local.shape[1:]), device=self.device)
        padded[: local.shape[0]] = local.to(self.device)
        return padded


def is_row_sharded(parameter: torch.Tensor) -> TypeGuard[DTensor]:
    """Whether ranks hold different rows of a parameter ``[rows, ...]``, as a DTensor."""
    return isinstance(parameter, DTensor) and any(placement.is_shard() for placement in parameter.placements)


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's rows of a DTensor, [rows, ...]; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_rows(parameter: torch.Tensor) -> slice | None:
    """The rows of a parameter ``[rows, ...]`` that this rank holds; None if it holds all."""
    return RowShards(parameter).rows if is_row_sharded(parameter) else None


def assign_owners(parameters: Iterable[torch.Tensor]) -> dict[torch.Tensor, int]:
    """Choose an owner for each row-sharded parameter: the least loaded rank so far, large parameters first.

    Only the full shapes ``[rows, ...]`` decide, so all ranks choose the same.
    """
    sharded = [(one, RowShards(one).size) for one in parameters if is_row_sharded(one)]
    loads: dict[int, int] = {}
    owners: dict[torch.Tensor, int] = {}
    # sorted() keeps the order of equals, which is the model's.
    for parameter, size in sorted(sharded, key=lambda one: -one[0].numel()):
        owner = min(range(size), key=lambda rank: loads.get(rank, 0))
        owners[parameter] = owner
        loads[owner] = loads.get(owner, 0) + parameter.numel()
    return owners
