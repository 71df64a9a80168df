"""When a parameter is stepped inside the backward pass: as soon as its gradient is complete, which is then freed.

So the gradients of a model never exist all at once (LOMO, Lv et al., arXiv 2306.09782; GaLore's layer-wise variant,
arXiv 2403.03507, section 4.3). Over several ranks the gradient is averaged before the step, so the ranks stay equal: in
the hook where each rank has a whole gradient (DDP, whose own reduction keeps all gradients in buckets and is not used;
ZeRO 3), and by the backend where it delivers the rows of the average (FSDP2).

Gradients cannot accumulate over micro-batches. Their global norm is known only after all steps, so it is reported and
cannot clip, unless an earlier backward pass measures it, as LOMO's authors do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.hooks import RemovableHandle

from raytrainer.layout.ranks import num_ranks
from raytrainer.layout.rows import assign_owners, is_row_sharded
from raytrainer.layout.tensor_layout import writable
from raytrainer.optim.composition.composed import OWNER, POSITION, Composed, MakeInner
from raytrainer.optim.composition.slots import Slot, SquaredNorm, norm_of, squared_norm


class UpdatesInBackward(Composed):
    """One inner optimizer per parameter, stepped by a hook of the parameter while the backward pass runs.

    Args:
        groups: Parameter groups with ``lr``; the schedule changes it here, and the next step uses it.
        make_inner: Makes an optimizer from one parameter's group. A ``Composed`` one that has ``reduces`` averages
            gradients over ranks itself.
        measures: Every step begins with a backward pass that only measures the norm of all gradients, to clip by it.
    """

    def __init__(
        self, groups: list[dict[str, Any]], make_inner: MakeInner, *, measures: bool = False
    ) -> None:
        self.measures = measures
        self._handles: list[RemovableHandle] = []
        self._norms: list[SquaredNorm] = []
        self._is_measuring = False
        self._factor: torch.Tensor | None = None
        self._hooked: dict[torch.Tensor, tuple[torch.optim.Optimizer, dict[str, Any]]] = {}
        super().__init__(groups, make_inner)

    def _build(self) -> None:
        owners = assign_owners(p for group in self.param_groups for p in group["params"])
        for group in self.param_groups:
            options = {key: value for key, value in group.items() if key != "params"}
            for parameter in group["params"]:
                options[POSITION] = len(self._hooked)
                owner = {OWNER: owners[parameter]} if parameter in owners else {}
                inner = self._make_inner([{**options, **owner, "params": [parameter]}])
                self._hooked[parameter] = inner, group
                self._stepped[parameter] = Slot(parameter), inner

    def arm(self) -> None:
        """Make backward passes update parameters from now on; calling it again changes nothing."""
        if not self._handles:
            tensors: list[Any] = list(self._hooked)
            self._handles = [tensor.register_post_accumulate_grad_hook(self._hook) for tensor in tensors]

    def disarm(self) -> None:
        """Make backward passes only compute gradients from now on."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def backward(self, run: Callable[..., None], *, max_norm: float) -> None:
        """All ranks: a backward pass that measures the norm, and one that updates with clipped gradients.

        Args:
            run: Runs a backward pass; with ``retain_graph=True`` another one may follow.
            max_norm: The norm of all gradients is clipped to it.
        """
        self._is_measuring = True
        try:
            run(retain_graph=True)
        finally:
            self._is_measuring = False
        norm = self.take_grad_norm()
        self._factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_ does
        try:
            run()
        finally:
            self._factor = None
        self._norms = [(norm.square(), False)]

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Nothing is left to do: the backward pass has stepped every parameter."""

    def take_grad_norm(self) -> torch.Tensor:
        """All ranks: the norm of all gradients of the last backward pass, as they were stepped (a float32 scalar)."""
        norms, self._norms = self._norms, []
        return norm_of(norms)

    def describe(self) -> str:
        """For the table of applied settings."""
        names = sorted({type(inner).__name__ for inner, _ in self._hooked.values()})
        passes = ", after a pass that measures their norm" if self.measures else ""
        return f"{'/'.join(names)} in the backward pass{passes}, {len(self._hooked)} parameters"

    @torch.no_grad()
    def _hook(self, parameter: torch.Tensor) -> None:
        if parameter.grad is None:
            return
        inner, group = self._hooked[parameter]
        averages_itself = getattr(inner, "reduces", False) and not self._is_measuring
        if not is_row_sharded(parameter) and not averages_itself and num_ranks() > 1:
            # All ranks: they run backward through the same graph, so they come here in the same order.
            dist.all_reduce(parameter.grad)
            parameter.grad.div_(num_ranks())
        if self._is_measuring:
            self._norms.append(squared_norm(parameter, parameter.grad))
        else:
            if self._factor is not None:
                parameter.grad.mul_(self._factor.to(parameter.grad.device))
            with writable(parameter):
                self._update(parameter, inner, group)
        parameter.grad = None

    def _update(self, parameter: torch.Tensor, inner: torch.optim.Optimizer, group: dict[str, Any]) -> None:
        for inner_group in inner.param_groups:
            inner_group["lr"] = group["lr"]
        if isinstance(inner, Composed):
            self._norms += inner.step_and_measure()
        else:
            self._norms.append(squared_norm(parameter, parameter.grad))
            inner.step()
        self._share_state(parameter)
