"""Rows of a parameter that is cut over ranks: who has which, and the ways between them and one rank that needs all.

A sharding backend cuts a parameter along its first dimension, as ``torch.chunk`` does: ranks in a row hold
``ceil(rows / ranks)`` rows each, the last ones fewer or none. Everything here is of the ranks that share one whole
parameter; under hybrid sharding the replicas do the same beside each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor


class Cut:
    """How a parameter lies on the ranks.

    Args:
        parameter: A DTensor that is cut by rows on one dimension of its mesh.
    """

    def __init__(self, parameter: DTensor) -> None:
        mesh = parameter.device_mesh
        (dimension,) = (
            number for number, placement in enumerate(parameter.placements) if placement.is_shard()
        )
        self.group: Any = mesh.get_group(dimension)
        self.size = mesh.size(dimension)
        """Ranks that share the parameter."""
        self.rank = mesh.get_local_rank(dimension)
        coordinate: Any = mesh.get_coordinate()
        self.is_replica = any(place for number, place in enumerate(coordinate) if number != dimension)
        """Another rank has the same rows, and counts for them."""
        self.device = torch.device(parameter.device_mesh.device_type)
        self.shape = parameter.shape
        self.chunk = -(-parameter.shape[0] // self.size)
        """Rows of the first ranks."""
        first = min(self.chunk * self.rank, parameter.shape[0])
        self.rows = slice(first, min(first + self.chunk, parameter.shape[0]))
        """Of this rank."""

    def global_rank(self, owner: int) -> int:
        """The rank in the whole run of one of those that share the parameter."""
        return dist.get_global_rank(self.group, owner)

    def gather(self, local: torch.Tensor, owner: int) -> torch.Tensor | None:
        """All ranks: bring the rows together on their owner; None elsewhere.

        Args:
            local: This rank's rows, [rows, ...].
            owner: Who gets [all rows, ...].
        """
        padded = self._padded(local)
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.rank == owner else None
        dist.gather(padded, parts, dst=self.global_rank(owner), group=self.group)
        return None if parts is None else torch.cat(parts)[: self.shape[0]]

    def scatter(self, whole: torch.Tensor | None, owner: int, like: torch.Tensor) -> torch.Tensor:
        """All ranks: bring each rank's rows to it.

        Args:
            whole: [all rows, ...] on the owner; None elsewhere.
            owner: Who has them.
            like: This rank's rows have its shape, dtype and device.
        """
        target = self._padded(torch.zeros_like(like))
        parts = None
        if self.rank == owner:
            assert whole is not None
            rows = whole.to(target.device, target.dtype)
            parts = [self._padded(part) for part in rows.split(self.chunk)]
            parts += [torch.zeros_like(target) for _ in range(self.size - len(parts))]
        dist.scatter(target, parts, src=self.global_rank(owner), group=self.group)
        return target[: like.shape[0]].to(like.device)

    def broadcast(self, found: torch.Tensor | None, owner: int, shape: Iterable[int]) -> torch.Tensor:
        """All ranks: bring a tensor of one rank, in fp32, to all that share the parameter."""
        if found is None:
            found = torch.empty(tuple(shape), device=self.device)
        found = found.to(self.device).contiguous()
        dist.broadcast(found, src=self.global_rank(owner), group=self.group)
        return found

    def sum_on_owner(self, part: torch.Tensor, owner: int) -> torch.Tensor | None:
        """All ranks: bring the sum of their parts to the owner; None elsewhere."""
        part = part.to(self.device).contiguous()
        dist.reduce(part, dst=self.global_rank(owner), group=self.group)
        return part if self.rank == owner else None

    def _padded(self, local: torch.Tensor) -> torch.Tensor:
        padded = local.new_zeros((self.chunk, *local.shape[1:]), device=self.device)
        padded[: local.shape[0]] = local.to(self.device)
        return padded


def is_cut(parameter: Any) -> bool:
    """Whether ranks hold different rows of a parameter."""
    return isinstance(parameter, DTensor) and any(placement.is_shard() for placement in parameter.placements)


def local_of(tensor: Any) -> torch.Tensor:
    """This rank's part of a tensor, or all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_of(parameter: Any) -> slice | None:
    """The rows of a parameter that this rank has; None if it has all."""
    return Cut(parameter).rows if is_cut(parameter) else None


def assign_owners(parameters: Iterable[torch.Tensor]) -> dict[torch.Tensor, int]:
    """Choose the owner of each parameter that is cut: the rank that has least so far, large ones first.

    It is the same on all ranks, because it looks at shapes alone.
    """
    cut = [
        (parameter, Cut(parameter))
        for parameter in parameters
        if isinstance(parameter, DTensor) and is_cut(parameter)
    ]
    loads: dict[int, int] = {}
    owners: dict[torch.Tensor, int] = {}
    # sorted() keeps the order of equals, which is the model's.
    for parameter, lies in sorted(cut, key=lambda one: -one[0].numel()):
        owner = min(range(lies.size), key=lambda rank: loads.get(rank, 0))
        owners[parameter] = owner
        loads[owner] = loads.get(owner, 0) + parameter.numel()
    return owners
