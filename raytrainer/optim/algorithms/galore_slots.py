"""A matrix under GaLore, for each way in which its gradient lies on ranks.

- ``LowRank``: every rank has the whole, averaged gradient (one process; DDP, which has reduced it because its norm is
  clipped).
- ``LowRankReduced``: every rank has a whole gradient of its own (DDP where nothing is clipped, and updates in the
  backward pass). R is linear in the gradient, so between projections the average of R is the R of the average, and only
  R is sent.
- ``LowRankOnOwner``: every rank has rows of the averaged gradient (FSDP2). An owner has projection and state.

The projection is found by one rank, since singular vectors have no determined sign.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from raytrainer.layout.gathered import shape_of
from raytrainer.layout.rows import Cut, local_of
from raytrainer.optim.composition.slots import Slot

PROJECTION = "projection"
STEP = "projection_step"


class LowRank(Slot):
    """A matrix whose gradient is whole on every rank.

    Args:
        parameter: W, [m, n].
        group: Its parameter group, with ``rank``, ``update_proj_gap``, ``scale`` and ``side``.
        owner: Of the ranks that share the matrix, if it is cut.
    """

    def __init__(self, parameter: torch.Tensor, group: dict[str, Any], owner: int | None = None) -> None:
        super().__init__(parameter, owner)
        rows, columns = shape_of(parameter)
        self.rank = min(group["rank"], rows, columns)
        self.from_right = projects_from_right(torch.Size((rows, columns)), group["side"])
        self.shape = (rows, self.rank) if self.from_right else (self.rank, columns)
        """Of R."""
        self.projection_shape = (self.rank, columns) if self.from_right else (rows, self.rank)
        self.projection: torch.Tensor | None = None
        self.finder = 0
        """The rank that finds projections."""
        self.make_small(parameter.device)

    def make_small(self, device: torch.device) -> None:
        """What the inner optimizer steps."""
        self.inside = torch.nn.Parameter(torch.zeros(self.shape, dtype=torch.float32, device=device))

    def load(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        assert self.inside is not None
        gradient = local_of(self.parameter.grad)
        if self.is_due(group, inner):
            self.share()
        assert self.projection is not None
        self.inside.grad = project(gradient, self.projection, from_right=self.from_right)
        self.inside.zero_()

    def is_due(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> bool:
        """Whether this step finds a new projection; the same on all ranks."""
        assert inner is not None
        assert self.inside is not None
        age = int(inner.state.get(self.inside, {}).get(STEP, 0))
        return self.projection is None or age % group["update_proj_gap"] == 0

    def find(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        gradient = self.parameter.grad
        if gradient is not None and self.is_due(group, inner):
            self.projection = (
                projection_of(gradient, self.rank, from_right=self.from_right)
                if _rank() == self.finder % _num_ranks()
                else torch.empty(self.projection_shape, device=gradient.device)
            )

    def share(self) -> None:
        """All ranks: the new projection is that of the rank that found it."""
        if self.projection is not None and _num_ranks() > 1:
            dist.broadcast(self.projection, src=self.finder % _num_ranks())

    def store(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        assert self.inside is not None
        assert self.projection is not None
        assert inner is not None
        self.apply(project_back(self.inside, self.projection, from_right=self.from_right), group)
        self.remember(inner)

    def apply(self, whole_step: torch.Tensor, group: dict[str, Any]) -> None:
        """Add a step to what this rank has of the matrix."""
        local = local_of(self.parameter)
        local.add_(whole_step.to(local.device, local.dtype), alpha=group["scale"])
        if group.get("weight_decay"):
            local.add_(local, alpha=-group["lr"] * group["weight_decay"])

    def remember(self, inner: torch.optim.Optimizer) -> None:
        """Put into the state what the next step needs."""
        assert self.inside is not None
        self.inside.grad = None
        state = inner.state[self.inside]
        state[PROJECTION] = self.projection
        state[STEP] = int(state.get(STEP, 0)) + 1

    def take_over(self, saved: dict[str, Any]) -> None:
        found = saved.get(PROJECTION)
        if found is None or tuple(found.shape) != self.projection_shape:
            shape = None if found is None else tuple(found.shape)
            raise ValueError(f"a projection of shape {shape} was saved, and {self.projection_shape} is used")
        self.projection = found


class Reduced(Slot):
    """Any other parameter whose gradient is averaged here."""

    def bring(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        average(self.parameter.grad)


class LowRankReduced(LowRank):
    """A matrix of which every rank has a whole gradient of its own, that is averaged here."""

    def bring(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is not None and self.is_due(group, inner):
            average(self.parameter.grad)

    def load(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        is_average = self.is_due(group, inner)
        super().load(group, inner)
        assert self.inside is not None
        if not is_average:
            average(self.inside.grad)


class LowRankOnOwner(LowRank):
    """A matrix that is cut by rows; projection and state are with its owner.

    From the right R = G P has the rows of G, which come together on the owner; from the left R = sum of P_i^T G_i over
    the ranks' rows. The owner's step N goes to all, and each adds its rows of N P^T.

    Args:
        parameter: W, a DTensor.
        group: As ``LowRank``.
        owner: Of the ranks that share it.
    """

    def __init__(self, parameter: Any, group: dict[str, Any], owner: int) -> None:
        self._cut = Cut(parameter)
        self._age = 0
        self._whole: torch.Tensor | None = None
        super().__init__(parameter, group, owner)

    def make_small(self, device: torch.device) -> None:
        self.inside = None
        if self._cut.rank == self.owner:
            super().make_small(self._cut.device)

    def is_due(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> bool:
        # The ranks that have no state count by themselves.
        return self._age % group["update_proj_gap"] == 0

    def bring(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is not None and self.is_due(group, inner):
            assert self.owner is not None
            self._whole = self._cut.gather(local_of(self.parameter.grad), self.owner)

    def find(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self._whole is not None:
            self.projection = projection_of(self._whole, self.rank, from_right=self.from_right)
            self._whole = None

    def load(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        assert self.owner is not None
        gradient = local_of(self.parameter.grad)
        self._age += 1
        self._own_part = self._distributed()
        part = project(gradient.to(self._cut.device), self._own_part, from_right=self.from_right)
        small = (
            self._cut.gather(part, self.owner)
            if self.from_right
            else self._cut.sum_on_owner(part, self.owner)
        )
        if self.inside is not None:
            self.inside.grad = small
            self.inside.zero_()

    def store(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        assert self.owner is not None
        local = local_of(self.parameter)
        if self.from_right:
            rows = self._own_part.new_empty((local.shape[0], self.rank))
            step = self._cut.scatter(self.inside, self.owner, rows)
        else:
            step = self._cut.broadcast(self.inside, self.owner, self.shape)
        self.apply(project_back(step, self._own_part, from_right=self.from_right), group)
        del self._own_part
        if inner is not None:
            self.remember(inner)

    def take_over(self, saved: dict[str, Any]) -> None:
        self._age = int(saved[STEP])
        if self.inside is not None:
            super().take_over(saved)

    def _distributed(self) -> torch.Tensor:
        """All ranks: what of the projection this rank's rows are multiplied with."""
        assert self.owner is not None
        if self.from_right:
            return self._cut.broadcast(self.projection, self.owner, self.projection_shape)
        rows = torch.empty((local_of(self.parameter).shape[0], self.rank), device=self._cut.device)
        return self._cut.scatter(self.projection, self.owner, rows)


def projects_from_right(shape: torch.Size, side: str) -> bool:
    """Whether R keeps the rows of the gradient and has ``rank`` columns."""
    if side in ("left", "right"):
        return side == "right"
    is_tall = shape[0] >= shape[1]
    return is_tall if side == "std" else not is_tall


def projection_of(gradient: torch.Tensor, rank: int, *, from_right: bool) -> torch.Tensor:
    """The leading singular vectors: [rank, n] for a projection from the right, [m, rank] from the left."""
    u, _, v = torch.linalg.svd(gradient.float(), full_matrices=False)
    return (v[:rank, :] if from_right else u[:, :rank]).contiguous()


def project(gradient: torch.Tensor, projection: torch.Tensor, *, from_right: bool) -> torch.Tensor:
    """R."""
    gradient = gradient.to(projection.dtype)
    return gradient @ projection.t() if from_right else projection.t() @ gradient


def project_back(step: torch.Tensor, projection: torch.Tensor, *, from_right: bool) -> torch.Tensor:
    """A step of the shape of the whole matrix."""
    return step @ projection if from_right else projection @ step


def average(gradient: torch.Tensor | None) -> None:
    """All ranks: average a gradient."""
    if gradient is not None and _num_ranks() > 1:
        dist.all_reduce(gradient)
        gradient.div_(_num_ranks())


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _num_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
