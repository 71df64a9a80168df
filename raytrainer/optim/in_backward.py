"""Updates inside the backward pass: a parameter is stepped as soon as its gradient is whole, which is then freed.

So the gradients of a model never exist at once (LOMO, Lv et al., arXiv 2306.09782; GaLore's layer-wise variant,
arXiv 2403.03507, section 4.3). Over several ranks the gradient is averaged in the hook, before the step, so the ranks
stay equal; DDP's own reduction, which keeps all gradients in buckets, is not used.

Two things are lost: gradients cannot add up over micro-batches, and their global norm is known when all steps are done,
so it is reported and cannot clip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from raytrainer.optim.composed import Composed

MakeInner = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class UpdatesInBackward(Composed):
    """One inner optimizer per parameter, stepped by a hook of the parameter while the backward pass runs.

    Args:
        groups: Parameter groups with ``lr``; the schedule changes it here, and the next step uses it.
        make_inner: Makes an optimizer of one parameter's group.
    """

    def __init__(self, groups: list[dict[str, Any]], make_inner: MakeInner) -> None:
        super().__init__([group for group in groups if group["params"]], {})
        self._inner: dict[torch.Tensor, torch.optim.Optimizer] = {}
        self._group: dict[torch.Tensor, dict[str, Any]] = {}
        self._handles: list[Any] = []
        self._squares: list[torch.Tensor] = []
        for group in self.param_groups:
            options = {key: value for key, value in group.items() if key != "params"}
            for parameter in group["params"]:
                self._inner[parameter] = make_inner([{**options, "params": [parameter]}])
                self._group[parameter] = group

    def inner_of(self, parameter: torch.Tensor) -> tuple[torch.optim.Optimizer, torch.Tensor]:
        return self._inner[parameter], parameter

    def arm(self) -> None:
        """From now on a backward pass updates; the same again changes nothing."""
        if not self._handles:
            self._handles = [one.register_post_accumulate_grad_hook(self._update) for one in self._inner]

    def disarm(self) -> None:
        """From now on a backward pass only computes gradients."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def step(self, closure: Any = None) -> None:
        """Nothing is left to do."""

    def take_grad_norm(self) -> torch.Tensor:
        """The norm of all gradients of the last backward pass."""
        squares, self._squares = self._squares, []
        return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())

    def describe(self) -> str:
        """For the table of what is engaged."""
        kinds = sorted({type(one).__name__ for one in self._inner.values()})
        return f"{'/'.join(kinds)} in the backward pass, {len(self._inner)} parameters"

    @torch.no_grad()
    def _update(self, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        if dist.is_initialized() and dist.get_world_size() > 1:
            # All ranks: they run backward through the same graph, so they come here in the same order.
            dist.all_reduce(gradient)
            gradient.div_(dist.get_world_size())
        self._squares.append(gradient.float().pow(2).sum())
        inner = self._inner[parameter]
        for group in inner.param_groups:
            group["lr"] = self._group[parameter]["lr"]
        inner.step()
        parameter.grad = None
        self.adopt_state(parameter)
