"""How GaLore steps a matrix, for each way in which its gradient is laid out over ranks.

- ``LowRank``: every rank has the whole, averaged gradient (one process; DDP, which has reduced it because its norm is
  clipped).
- ``LowRankReduced``: every rank has a whole, unreduced gradient (DDP where nothing is clipped, and updates in the
  backward pass). R is linear in the gradient, so between projections the average of R is the R of the average, and only
  R is sent.
- ``LowRankOnOwner``: every rank has rows of the averaged gradient (FSDP2). An owner holds projection and state.

One rank computes the projection, because the sign of singular vectors is not determined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from raytrainer.layout.ranks import current_rank, num_ranks
from raytrainer.layout.rows import RowShards, local_tensor
from raytrainer.layout.tensor_layout import full_shape
from raytrainer.optim.composition.slots import Slot

PROJECTION = "projection"
STEP = "projection_step"


class LowRank(Slot):
    """A matrix whose gradient is whole on every rank.

    Args:
        parameter: W, ``[m, n]``.
        group: Its parameter group, with ``rank``, ``update_proj_gap``, ``scale`` and ``side``.
        owner: Rank, among those that share the matrix, that steps it, if it is sharded.
    """

    def __init__(self, parameter: torch.Tensor, group: dict[str, Any], owner: int | None = None) -> None:
        super().__init__(parameter, owner)
        rows, columns = full_shape(parameter)
        self.rank = min(group["rank"], rows, columns)
        self.from_right = projects_from_right(torch.Size((rows, columns)), group["side"])
        self.shape = (rows, self.rank) if self.from_right else (self.rank, columns)
        """Shape of R."""
        self.projection_shape = (self.rank, columns) if self.from_right else (rows, self.rank)
        self.projection: torch.Tensor | None = None
        """P, float32, ``projection_shape``."""
        self.source_rank = 0
        """The rank that computes projections, modulo the number of ranks."""
        self.make_inner_parameter(parameter.device)

    def make_inner_parameter(self, device: torch.device) -> None:
        """Make the small matrix, float32 and of the shape of R, that the inner optimizer steps."""
        self.inner_parameter = torch.nn.Parameter(torch.zeros(self.shape, dtype=torch.float32, device=device))

    def load(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        assert self.inner_parameter is not None
        gradient = local_tensor(self.parameter.grad)
        if self.is_due(group, inner):
            self.share()
        assert self.projection is not None
        self.inner_parameter.grad = project(gradient, self.projection, from_right=self.from_right)
        self.inner_parameter.zero_()

    def is_due(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> bool:
        """Whether this step computes a new projection; the same on all ranks."""
        assert inner is not None
        assert self.inner_parameter is not None
        age = int(inner.state.get(self.inner_parameter, {}).get(STEP, 0))
        return self.projection is None or age % group["update_proj_gap"] == 0

    def compute(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        gradient = self.parameter.grad
        if gradient is not None and self.is_due(group, inner):
            self.projection = (
                projection_of(gradient, self.rank, from_right=self.from_right)
                if current_rank() == self.source_rank % num_ranks()
                else torch.empty(self.projection_shape, device=gradient.device)
            )

    def share(self) -> None:
        """All ranks: send the new projection from the rank that computed it to all others."""
        if self.projection is not None and num_ranks() > 1:
            dist.broadcast(self.projection, src=self.source_rank % num_ranks())

    def store(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        assert self.inner_parameter is not None
        assert self.projection is not None
        assert inner is not None
        self.apply(project_back(self.inner_parameter, self.projection, from_right=self.from_right), group)
        self.remember(inner)

    def apply(self, step: torch.Tensor, group: dict[str, Any]) -> None:
        """Add a step, and weight decay, to this rank's part of the matrix.

        Args:
            step: N P^T, ``[rows of this rank, n]``.
            group: The parameter group, with ``scale``, ``lr`` and ``weight_decay``.
        """
        local = local_tensor(self.parameter)
        local.add_(step.to(local.device, local.dtype), alpha=group["scale"])
        if group.get("weight_decay"):
            local.add_(local, alpha=-group["lr"] * group["weight_decay"])

    def remember(self, inner: torch.optim.Optimizer) -> None:
        """Keep in the state what the next step needs: the projection and its age [steps]."""
        assert self.inner_parameter is not None
        self.inner_parameter.grad = None
        state = inner.state[self.inner_parameter]
        state[PROJECTION] = self.projection
        state[STEP] = int(state.get(STEP, 0)) + 1

    def restore(self, saved: dict[str, Any]) -> None:
        found = saved.get(PROJECTION)
        if found is None or tuple(found.shape) != self.projection_shape:
            shape = None if found is None else tuple(found.shape)
            raise ValueError(
                f"the saved projection has shape {shape}, but {self.projection_shape} was expected"
            )
        self.projection = found


class Reduced(Slot):
    """Any other parameter whose unreduced gradient is averaged here."""

    def gather(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        average(self.parameter.grad)


class LowRankReduced(LowRank):
    """A matrix of which every rank has a whole, unreduced gradient, which is averaged here."""

    def gather(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is not None and self.is_due(group, inner):
            average(self.parameter.grad)

    def load(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        is_average = self.is_due(group, inner)
        super().load(group, inner)
        assert self.inner_parameter is not None
        if not is_average:
            average(self.inner_parameter.grad)


class LowRankOnOwner(LowRank):
    """A matrix that is sharded by rows; its owner holds projection and state.

    From the right, R = G P has the rows of G, which are gathered on the owner; from the left, R is the sum of
    P_i^T G_i over the ranks' rows. The owner's step N is sent to all, and each rank adds its rows of N P^T.

    Args:
        parameter: W, ``[m, n]``, a DTensor.
        group: As for ``LowRank``.
        owner: Rank, among those that share the matrix, that steps it.
    """

    def __init__(self, parameter: DTensor, group: dict[str, Any], owner: int) -> None:
        self._owner = owner
        self._rows = RowShards(parameter)
        self._age = 0
        self._whole: torch.Tensor | None = None
        super().__init__(parameter, group, owner)

    def make_inner_parameter(self, device: torch.device) -> None:
        self.inner_parameter = None
        if self._rows.rank == self._owner:
            super().make_inner_parameter(self._rows.device)

    def is_due(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> bool:
        # Ranks without the state count the steps themselves.
        return self._age % group["update_proj_gap"] == 0

    def gather(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is not None and self.is_due(group, inner):
            self._whole = self._rows.gather(local_tensor(self.parameter.grad), self._owner)

    def compute(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self._whole is not None:
            self.projection = projection_of(self._whole, self.rank, from_right=self.from_right)
            self._whole = None

    def load(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        gradient = local_tensor(self.parameter.grad)
        self._age += 1
        self._own_part = self._distributed()
        part = project(gradient.to(self._rows.device), self._own_part, from_right=self.from_right)
        small = (
            self._rows.gather(part, self._owner)
            if self.from_right
            else self._rows.sum_on_owner(part, self._owner)
        )
        if self.inner_parameter is not None:
            self.inner_parameter.grad = small
            self.inner_parameter.zero_()

    def store(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        local = local_tensor(self.parameter)
        if self.from_right:
            rows = self._own_part.new_empty((local.shape[0], self.rank))
            step = self._rows.scatter(self.inner_parameter, self._owner, rows)
        else:
            step = self._rows.broadcast(self.inner_parameter, self._owner, self.shape)
        self.apply(project_back(step, self._own_part, from_right=self.from_right), group)
        del self._own_part
        if inner is not None:
            self.remember(inner)

    def restore(self, saved: dict[str, Any]) -> None:
        self._age = int(saved[STEP])
        if self.inner_parameter is not None:
            super().restore(saved)

    def _distributed(self) -> torch.Tensor:
        """All ranks: the part of the projection that this rank's rows are multiplied with.

        Returns:
            float32, ``[rank, n]`` for a projection from the right, ``[rows of this rank, rank]`` from the left.
        """
        if self.from_right:
            return self._rows.broadcast(self.projection, self._owner, self.projection_shape)
        rows = torch.empty((local_tensor(self.parameter).shape[0], self.rank), device=self._rows.device)
        return self._rows.scatter(self.projection, self._owner, rows)


def projects_from_right(shape: torch.Size, side: str) -> bool:
    """Whether R keeps the rows of the gradient and has ``rank`` columns.

    Args:
        shape: Of the matrix, ``(m, n)``.
        side: "std" (the shorter side is projected), "reverse_std", "left" or "right".
    """
    if side in ("left", "right"):
        return side == "right"
    is_tall = shape[0] >= shape[1]
    return is_tall if side == "std" else not is_tall


def projection_of(gradient: torch.Tensor, rank: int, *, from_right: bool) -> torch.Tensor:
    """The leading singular vectors of a gradient.

    Args:
        gradient: G, ``[m, n]``, any floating dtype.
        rank: Number of singular vectors.
        from_right: Whether the projection multiplies from the right.

    Returns:
        float32, ``[rank, n]`` for a projection from the right, ``[m, rank]`` from the left.
    """
    svd = cast("Callable[..., tuple[torch.Tensor, ...]]", torch.linalg.svd)
    u, _, v = svd(gradient.float(), full_matrices=False)
    return (v[:rank, :] if from_right else u[:, :rank]).contiguous()


def project(gradient: torch.Tensor, projection: torch.Tensor, *, from_right: bool) -> torch.Tensor:
    """Project a gradient to R.

    Args:
        gradient: G, ``[m, n]``.
        projection: ``[rank, n]`` or ``[m, rank]``, float32.
        from_right: Whether the projection multiplies from the right.

    Returns:
        ``[m, rank]`` or ``[rank, n]``, in the projection's dtype.
    """
    gradient = gradient.to(projection.dtype)
    return gradient @ projection.t() if from_right else projection.t() @ gradient


def project_back(step: torch.Tensor, projection: torch.Tensor, *, from_right: bool) -> torch.Tensor:
    """Turn a step of R into a step of the matrix.

    Args:
        step: N, ``[m, rank]`` or ``[rank, n]``.
        projection: ``[rank, n]`` or ``[m, rank]``.
        from_right: Whether the projection multiplies from the right.

    Returns:
        ``[m, n]``.
    """
    return step @ projection if from_right else projection @ step


def average(gradient: torch.Tensor | None) -> None:
    """All ranks: average a gradient ``[...]`` of any dtype in place."""
    if gradient is not None and num_ranks() > 1:
        dist.all_reduce(gradient)
        gradient.div_(num_ranks())
