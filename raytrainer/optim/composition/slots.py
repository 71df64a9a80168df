"""What stands for a parameter in an inner optimizer: itself, or something in its place.

An inner optimizer knows nothing of ranks. Before its step a slot gives it a gradient; after it the slot brings the
change to where the parameter lies.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from raytrainer.layout.rows import Cut, is_cut, local_of

SquaredNorm = tuple[torch.Tensor, bool]
"""Of a gradient, a scalar, and whether other ranks have other parts of it."""


class Slot:
    """A parameter that the inner optimizer steps itself.

    Args:
        parameter: Whole, or cut over ranks if the inner optimizer steps element by element.
        owner: Of the ranks that share it; None if each steps its part.
    """

    def __init__(self, parameter: torch.Tensor, owner: int | None = None) -> None:
        self.parameter = parameter
        self.inside: torch.Tensor | None = parameter
        """What the inner optimizer steps; None on a rank that does not own the parameter."""
        self.owner = owner
        """Of the ranks that share the parameter the one that alone has its state; None if each has that of its part."""

    def bring(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        """First of all. All ranks, in the same order: bring together what one of them works on alone."""

    def find(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        """Then, each rank by itself, so at the same time: what one of them works on alone."""

    def load(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        """Before the step. All ranks, in the same order."""

    def store(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        """After the step. All ranks, in the same order."""

    def squared_norm(self) -> SquaredNorm:
        """Between the two: of the gradient that is stepped."""
        return squared_norm(self.parameter, None if self.inside is None else self.inside.grad)

    def take_over(self, saved: dict[str, Any]) -> None:
        """Take what the slot itself needs of a saved state; on ranks that do not own it, that has numbers only.

        Raises:
            ValueError: If it is not the state of such a slot.
        """


def squared_norm(parameter: torch.Tensor, gradient: torch.Tensor | None) -> SquaredNorm:
    """What this rank adds to the squared norm of a parameter's gradient.

    Args:
        parameter: Whole or cut.
        gradient: Of the parameter, or of what is stepped in its place; None where another rank has it.
    """
    is_part = is_cut(parameter)
    if gradient is None or (is_part and Cut(parameter).is_replica):  # type: ignore[arg-type]
        return torch.zeros((), device=local_of(parameter).device), is_part
    return local_of(gradient).float().pow(2).sum(), is_part


def norm_of(squares: list[SquaredNorm]) -> torch.Tensor:
    """All ranks: the norm of all gradients, of which ranks may have parts."""
    of_all = [square for square, is_part in squares if not is_part]
    of_parts = [square for square, is_part in squares if is_part]
    total = torch.stack(of_all).sum() if of_all else torch.zeros(())
    if of_parts:
        parts = torch.stack(of_parts).sum()
        dist.all_reduce(parts)
        total = total.to(parts.device) + parts
    return total.sqrt()


class OnOwner(Slot):
    """A parameter that is cut, and stepped whole by its owner: for optimizers that need all rows of a matrix.

    The gradient and the values go to the owner, and the values back; so ranks together hold one optimizer state, and
    its numbers are those of one worker.

    Args:
        parameter: A DTensor.
        owner: Of the ranks that share it.
    """

    def __init__(self, parameter: DTensor, owner: int) -> None:
        super().__init__(parameter, owner)
        self._cut = Cut(parameter)
        self.inside = None
        if self._cut.rank == owner:
            # Its values are there while it is stepped.
            self.inside = torch.nn.Parameter(
                torch.empty(parameter.shape, dtype=parameter.dtype, device=self._cut.device)
            )

    def release(self) -> None:
        """Free the owner's copy."""
        if self.inside is not None:
            self.inside.grad = None
            self.inside.data = self.inside.data.new_empty((0,))

    def load(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        assert self.owner is not None
        values = self._cut.gather(local_of(self.parameter), self.owner)
        gradient = self._cut.gather(local_of(self.parameter.grad), self.owner)
        if self.inside is not None:
            assert values is not None
            self.inside.data = values
            self.inside.grad = gradient

    def store(self, group: dict[str, Any], inner: torch.optim.Optimizer | None) -> None:
        if self.parameter.grad is None:
            return
        assert self.owner is not None
        local = local_of(self.parameter)
        whole = None if self.inside is None else self.inside.data
        local.copy_(self._cut.scatter(whole, self.owner, local))
        self.release()
