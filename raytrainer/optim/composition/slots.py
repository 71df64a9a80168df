"""What takes the place of a parameter in an inner optimizer: the parameter itself, or a tensor derived from it.

An inner optimizer knows nothing of ranks. Before its step a slot provides a gradient; after the step the slot applies
the change to the rank's part of the parameter.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from raytrainer.layout.rows import RowShards, is_row_sharded, local_tensor
from raytrainer.optim.wide_state import note_copy

SquaredNorm = tuple[torch.Tensor, bool]
"""Squared norm of a gradient (a float32 scalar), and whether other ranks hold other parts of that gradient."""


class Slot:
    """A parameter that the inner optimizer steps directly.

    The four methods ``gather``, ``compute``, ``load`` and ``store`` are called in this order around a step; a subclass
    overrides those it needs.

    Args:
        parameter: Whole, or sharded if the inner optimizer works element by element.
        owner: Rank, among those that share the parameter, that steps it; None if each rank steps its part.
    """

    def __init__(self, parameter: torch.Tensor, owner: int | None = None) -> None:
        self.parameter = parameter
        self.inner_parameter: torch.Tensor | None = parameter
        """What the inner optimizer steps; None on a rank that does not own the parameter."""
        self.owner = owner
        """Rank, among those that share the parameter, that alone holds its state; None if each holds its part."""

    def gather(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        """First. All ranks, in the same order: collect on one rank what it will compute alone."""

    def compute(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        """Second. Without communication, so all ranks work at the same time: compute what one rank computes alone."""

    def load(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        """Before the step. All ranks, in the same order: give the inner parameter its gradient and values."""

    def store(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        """After the step. All ranks, in the same order: apply the change to the parameter."""

    def squared_norm(self) -> SquaredNorm:
        """Between ``load`` and ``store``: the squared norm of the gradient that is stepped."""
        return squared_norm(
            self.parameter, None if self.inner_parameter is None else self.inner_parameter.grad
        )

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore what the slot itself needs from a saved state.

        Args:
            saved: Key -> tensor or number; on ranks that do not own the parameter, numbers only.

        Raises:
            ValueError: If it is not the state of such a slot.
        """


def squared_norm(parameter: torch.Tensor, gradient: torch.Tensor | None) -> SquaredNorm:
    """This rank's contribution to the squared norm of a parameter's gradient.

    Args:
        parameter: Whole or sharded, any shape.
        gradient: Gradient of the parameter or of what is stepped in its place; None where another rank holds it.

    Returns:
        A float32 scalar, and whether other ranks hold other parts.
    """
    is_part = is_row_sharded(parameter)
    if gradient is None or (is_part and RowShards(parameter).is_replica):
        return torch.zeros((), device=local_tensor(parameter).device), is_part
    return local_tensor(gradient).float().pow(2).sum(), is_part


def norm_of(squares: list[SquaredNorm]) -> torch.Tensor:
    """All ranks: the norm of all gradients, some of which may be spread over ranks.

    Args:
        squares: One per parameter, in the same order on all ranks.

    Returns:
        A float32 scalar.
    """
    of_whole = [square for square, is_part in squares if not is_part]
    of_parts = [square for square, is_part in squares if is_part]
    total = torch.stack(of_whole).sum() if of_whole else torch.zeros(())
    if of_parts:
        parts = torch.stack(of_parts).sum()
        dist.all_reduce(parts)
        total = total.to(parts.device) + parts
    return total.sqrt()


class OnOwner(Slot):
    """A sharded parameter that its owner steps whole, for optimizers that need all rows of a matrix.

    Gradient and values go to the owner, and the new values back; so the ranks together hold one optimizer state, and
    its numbers are those of one worker.

    Args:
        parameter: A DTensor, sharded by rows.
        owner: Rank, among those that share it, that steps it.
    """

    def __init__(self, parameter: DTensor, owner: int) -> None:
        super().__init__(parameter, owner)
        self._owner = owner
        self._rows = RowShards(parameter)
        self.inner_parameter = None
        if self._rows.rank == owner:
            # It holds values only while it is stepped.
            self.inner_parameter = torch.nn.Parameter(
                torch.empty(parameter.shape, dtype=parameter.dtype, device=self._rows.device)
            )
            note_copy(self.inner_parameter, parameter)

    def release(self) -> None:
        """Free the owner's copy."""
        if self.inner_parameter is not None:
            self.inner_parameter.grad = None
            self.inner_parameter.data = self.inner_parameter.data.new_empty((0,))

    def load(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        values = self._rows.gather(local_tensor(self.parameter), self._owner)
        gradient = self._rows.gather(local_tensor(self.parameter.grad), self._owner)
        if self.inner_parameter is not None:
            assert values is not None
            self.inner_parameter.data = values
            self.inner_parameter.grad = gradient

    def store(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        local = local_tensor(self.parameter)
        whole = None if self.inner_parameter is None else self.inner_parameter.data
        local.copy_(self._rows.scatter(whole, self._owner, local))
        self.release()
