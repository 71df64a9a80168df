"""How an optimizer delegates its arithmetic to inner optimizers, and is saved as if it did the arithmetic itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from raytrainer.layout.rows import assign_owners, is_row_sharded
from raytrainer.optim.composition.exact_state import ExactStateOptimizer
from raytrainer.optim.composition.slots import OnOwner, Slot, SquaredNorm

MakeInner = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""Makes an inner optimizer from parameter groups."""
OWNER = "owner"
"""Key of a group of one parameter: its owner, where owners were chosen for all parameters together."""
POSITION = "position"
"""Key of a group of one parameter: its index among all parameters."""


@dataclass(kw_only=True, slots=True)
class Stage:
    """Slots that one inner optimizer steps together."""

    groups: list[tuple[dict[str, Any], list[Slot]]]
    """The outer groups, with the slots of their parameters."""
    inner: torch.optim.Optimizer | None = None
    """None where this rank owns none of the parameters."""
    position: int | None = None
    """Index of its only parameter among all, if it was made for one parameter."""

    def slots(self) -> Iterator[tuple[dict[str, Any], Slot]]:
        """Every slot with its outer group."""
        for group, slots in self.groups:
            for slot in slots:
                yield group, slot

    def copy_learning_rates(self) -> None:
        """Copy the learning rates of the outer groups, which the schedule sets, to the inner groups."""
        if self.inner is not None:
            for (group, _), inner_group in zip(self.groups, self.inner.param_groups, strict=True):
                inner_group["lr"] = group["lr"]


class Composed(ExactStateOptimizer):
    """Inner optimizers that step parameters, or their slots, and whose state this optimizer exposes as its own.

    Whole parameters are stepped together. A sharded parameter with an owner is stepped in a stage of its own, so that
    the owner's copy of it lives only during that stage.

    Args:
        groups: Parameter groups with ``lr``; the schedule changes it here, and the next step uses it.
        make_inner: Makes an inner optimizer from such groups.
        hidden: Keys of the groups that the inner optimizer does not know.
    """

    def __init__(
        self, groups: list[dict[str, Any]], make_inner: MakeInner, *, hidden: frozenset[str] = frozenset()
    ) -> None:
        super().__init__([group for group in groups if group["params"]], {})
        self._hidden = hidden | {"params", "is_target", OWNER, POSITION}
        self._make_inner = make_inner
        self._owners: dict[torch.Tensor, int] = {}
        self._stages: list[Stage] = []
        self._stepped: dict[torch.Tensor, tuple[Slot, torch.optim.Optimizer | None]] = {}
        self._squares: list[SquaredNorm] | None = None
        self._build()

    def _build(self) -> None:
        self._owners = self._choose_owners()
        groups = [(group, [self.slot(p, group) for p in group["params"]]) for group in self.param_groups]
        self._stages = [*self._stages_of_owned(groups), *self._stages_of_others(groups)]
        for stage in self._stages:
            self._build_inner(stage)
            for _, slot in stage.slots():
                self._stepped[slot.parameter] = slot, stage.inner

    def _choose_owners(self) -> dict[torch.Tensor, int]:
        given = {p: group[OWNER] for group in self.param_groups if OWNER in group for p in group["params"]}
        return given or assign_owners(p for group in self.param_groups for p in group["params"])

    def _stages_of_owned(self, groups: list[tuple[dict[str, Any], list[Slot]]]) -> Iterator[Stage]:
        """One stage for each parameter that has an owner."""
        positions = {p: index for index, p in enumerate(p for group, _ in groups for p in group["params"])}
        for group, slots in groups:
            for slot in slots:
                if slot.owner is not None:
                    position = group.get(POSITION, positions[slot.parameter])
                    yield Stage(groups=[(group, [slot])], position=position)

    def _stages_of_others(self, groups: list[tuple[dict[str, Any], list[Slot]]]) -> list[Stage]:
        """One stage for all other parameters that share an inner optimizer."""
        stages: dict[Hashable, Stage] = {}
        for group, slots in groups:
            others = [slot for slot in slots if slot.owner is None]
            if others:
                stage = stages.setdefault(self.inner_key(group), Stage(groups=[]))
                stage.groups.append((group, others))
        return list(stages.values())

    def _build_inner(self, stage: Stage) -> None:
        inner_groups = [self.inner_group(group, slots) for group, slots in stage.groups]
        if stage.position is not None:
            inner_groups = [{**group, POSITION: stage.position} for group in inner_groups]
        if any(group["params"] for group in inner_groups):
            stage.inner = self.make_inner(inner_groups, self.inner_key(stage.groups[0][0]))
            self.defaults = self.defaults or dict(stage.inner.defaults)
        for _, slot in stage.slots():
            if isinstance(slot, OnOwner):
                slot.release()

    # ---- what a subclass decides ----------------------------------------------------------------------------------

    def inner_key(self, group: dict[str, Any]) -> Hashable:
        """Groups with equal keys share an inner optimizer."""
        return None

    def make_inner(self, groups: list[dict[str, Any]], key: Hashable) -> torch.optim.Optimizer:
        """Make the inner optimizer of the groups that have one ``inner_key``."""
        return self._make_inner(groups)

    def slot(self, parameter: torch.Tensor, group: dict[str, Any]) -> Slot:
        """What replaces a parameter ``[...]`` in the inner optimizer."""
        if isinstance(parameter, DTensor) and is_row_sharded(parameter):
            return OnOwner(parameter, self._owners[parameter])
        return Slot(parameter)

    def inner_group(self, group: dict[str, Any], slots: list[Slot]) -> dict[str, Any]:
        """The inner optimizer's group for an outer group."""
        kept = {key: value for key, value in group.items() if key not in self._hidden}
        inner_parameters = [slot.inner_parameter for slot in slots if slot.inner_parameter is not None]
        return {**kept, "params": inner_parameters}

    # ---- stepping ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """All ranks: step the inner optimizers."""
        everything = [(group, slot, stage.inner) for stage in self._stages for group, slot in stage.slots()]
        for group, slot, inner in everything:
            slot.gather(group, inner)
        for group, slot, inner in everything:
            slot.compute(group, inner)
        for stage in self._stages:
            self._step_stage(stage)

    def _step_stage(self, stage: Stage) -> None:
        for group, slot in stage.slots():
            slot.load(group, stage.inner)
        if self._squares is not None:
            self._squares += [slot.squared_norm() for _, slot in stage.slots()]
        if stage.inner is not None:
            stage.copy_learning_rates()
            stage.inner.step()
        for group, slot in stage.slots():
            slot.store(group, stage.inner)
            self._share_state(slot.parameter)

    def step_and_measure(self) -> list[SquaredNorm]:
        """All ranks: step, and return the squared norms of the gradients that the inner optimizers used."""
        self._squares = []
        self.step()
        found, self._squares = self._squares, None
        return found

    # ---- state ------------------------------------------------------------------------------------------------------

    def owner_of(self, parameter: torch.Tensor) -> int | None:
        """The one rank that holds the state of a parameter ``[...]``; None if each holds all or its own part."""
        slot, inner = self._stepped[parameter]
        return inner.owner_of(parameter) if isinstance(inner, Composed) else slot.owner

    def holds(self, parameter: torch.Tensor) -> bool:
        """Whether this rank holds the state of a parameter ``[...]``, or its part of the state."""
        slot, inner = self._stepped[parameter]
        return inner.holds(parameter) if isinstance(inner, Composed) else slot.inner_parameter is not None

    def restore_state(self, parameter: torch.Tensor, saved: dict[str, Any]) -> None:
        """Restore the saved state of one parameter.

        Args:
            parameter: Any parameter ``[...]`` of the optimizer.
            saved: Key -> tensor or number; on a rank that does not hold the state, the numbers in it.

        Raises:
            ValueError: If it is the state of another optimizer.
        """
        slot, inner = self._stepped[parameter]
        if not saved:
            return
        slot.restore(saved)
        if isinstance(inner, Composed):
            inner.restore_state(parameter, saved)
        elif inner is not None and slot.inner_parameter is not None:
            inner.state[slot.inner_parameter] = saved
        self._share_state(parameter)

    def _share_state(self, parameter: torch.Tensor) -> None:
        """Expose the inner optimizer's state of a parameter as this one's: the same dict, not a copy."""
        slot, inner = self._stepped[parameter]
        if inner is None or slot.inner_parameter is None:
            return
        found = inner.state.get(slot.inner_parameter)
        if found is not None:
            self.state[parameter] = found
