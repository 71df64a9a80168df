"""Optimizers that leave the arithmetic to inner ones, and are saved as if they did it themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from raytrainer.layout.rows import assign_owners, is_cut
from raytrainer.optim.composition.exact_state import OwnState
from raytrainer.optim.composition.slots import OnOwner, Slot, SquaredNorm

MakeInner = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
OWNER = "owner"
"""Key of a group of one parameter: its owner, when somebody has chosen it for all parameters together."""
POSITION = "position"
"""Key of a group of one parameter: its number among all parameters."""


@dataclass(kw_only=True, slots=True)
class Stage:
    """Slots that one inner optimizer steps together."""

    groups: list[tuple[dict[str, Any], list[Slot]]]
    """The outer groups, with what stands for their parameters."""
    inner: torch.optim.Optimizer | None = None
    """None where this rank owns none of the parameters."""
    inner_groups: list[dict[str, Any]] | None = None
    position: int | None = None
    """Of its one parameter among all, when it has one."""

    def slots(self) -> Iterator[tuple[dict[str, Any], Slot]]:
        """Every slot with its outer group."""
        for group, slots in self.groups:
            for slot in slots:
                yield group, slot


class Composed(OwnState):
    """Inner optimizers that step parameters, or what stands for them, and whose state it has as its own.

    Parameters that are whole are stepped together. One that is cut and has an owner is stepped by itself, so what
    stands for it lives only as long as that takes.

    Args:
        groups: Parameter groups with ``lr``; the schedule changes it here, and the next step uses it.
        make_inner: Makes an inner optimizer of such groups.
        hidden: Keys of the groups that the inner optimizer does not know.
    """

    def __init__(
        self, groups: list[dict[str, Any]], make_inner: MakeInner, *, hidden: frozenset[str] = frozenset()
    ) -> None:
        super().__init__([group for group in groups if group["params"]], {})
        self._hidden = hidden | {"params", "is_target", OWNER, POSITION}
        self._make_inner = make_inner
        self._stages: list[Stage] = []
        self._stepped: dict[torch.Tensor, tuple[Slot, torch.optim.Optimizer | None]] = {}
        self._squares: list[SquaredNorm] | None = None
        self._build()

    def _build(self) -> None:
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        chosen = {p: group[OWNER] for group in self.param_groups if OWNER in group for p in group["params"]}
        self._owners = chosen or assign_owners(parameters)
        positions = {p: position for position, p in enumerate(parameters)}
        together: dict[Any, Stage] = {}
        for group in self.param_groups:
            slots = [self.slot(parameter, group) for parameter in group["params"]]
            whole = [slot for slot in slots if slot.owner is None]
            if whole:
                stage = together.setdefault(self.kind(group), Stage(groups=[]))
                stage.groups.append((group, whole))
            for slot in slots:
                if slot.owner is not None:
                    stage = Stage(groups=[(group, [slot])])
                    stage.position = group.get(POSITION, positions[slot.parameter])
                    self._stages.append(stage)
        self._stages += together.values()
        for stage in self._stages:
            self._fill(stage)
            for _, slot in stage.slots():
                self._stepped[slot.parameter] = slot, stage.inner

    def kind(self, group: dict[str, Any]) -> Any:
        """Groups of different kinds have different inner optimizers."""
        return None

    def make_inner(self, groups: list[dict[str, Any]], kind: Any) -> torch.optim.Optimizer:
        """Make the inner optimizer of groups of one kind."""
        return self._make_inner(groups)

    def slot(self, parameter: torch.Tensor, group: dict[str, Any]) -> Slot:
        """What stands for a parameter in the inner optimizer."""
        return OnOwner(parameter, self._owners[parameter]) if is_cut(parameter) else Slot(parameter)  # type: ignore[arg-type]

    def inner_group(self, group: dict[str, Any], slots: list[Slot]) -> dict[str, Any]:
        """A group of the inner optimizer."""
        kept = {key: value for key, value in group.items() if key not in self._hidden}
        return {**kept, "params": [slot.inside for slot in slots if slot.inside is not None]}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """All ranks: have the inner optimizers step."""
        everything = [(group, slot, stage.inner) for stage in self._stages for group, slot in stage.slots()]
        for group, slot, inner in everything:
            slot.bring(group, inner)
        for group, slot, inner in everything:
            slot.find(group, inner)
        for stage in self._stages:
            for group, slot in stage.slots():
                slot.load(group, stage.inner)
            if self._squares is not None:
                self._squares += [slot.squared_norm() for _, slot in stage.slots()]
            if stage.inner is not None:
                for (group, _), inner_group in zip(stage.groups, stage.inner_groups or (), strict=True):
                    inner_group["lr"] = group["lr"]
                stage.inner.step()
            for group, slot in stage.slots():
                slot.store(group, stage.inner)
                self._adopt(slot.parameter)

    def step_and_measure(self) -> list[SquaredNorm]:
        """All ranks: step; return the squared norms of the gradients that the inner optimizers saw."""
        self._squares = []
        self.step()
        found, self._squares = self._squares, None
        return found

    # ---- state --------------------------------------------------------------------------------------------------

    def owner_of(self, parameter: torch.Tensor) -> int | None:
        """Of the ranks that share a parameter, the one that has its state; None if all have it, or their part of it."""
        slot, inner = self._stepped[parameter]
        return inner.owner_of(parameter) if isinstance(inner, Composed) else slot.owner

    def holds(self, parameter: torch.Tensor) -> bool:
        """Whether this rank has the state of a parameter, or its part of it."""
        slot, inner = self._stepped[parameter]
        return inner.holds(parameter) if isinstance(inner, Composed) else slot.inside is not None

    def restore_state(self, parameter: torch.Tensor, saved: dict[str, Any]) -> None:
        """Take over the saved state of a parameter; on a rank that does not hold it, the numbers that it needs.

        Raises:
            ValueError: If it is that of another optimizer.
        """
        slot, inner = self._stepped[parameter]
        if not saved:
            return
        slot.take_over(saved)
        if isinstance(inner, Composed):
            inner.restore_state(parameter, saved)
        elif inner is not None and slot.inside is not None:
            inner.state[slot.inside] = saved
        self._adopt(parameter)

    # ---- inside -------------------------------------------------------------------------------------------------

    def _adopt(self, parameter: torch.Tensor) -> None:
        """Have the state of the inner optimizer as one's own. It is one dict, not a copy."""
        slot, inner = self._stepped[parameter]
        found = None if inner is None or slot.inside is None else inner.state.get(slot.inside)
        if found is not None:
            self.state[parameter] = found

    def _fill(self, stage: Stage) -> None:
        inner_groups = [self.inner_group(group, slots) for group, slots in stage.groups]
        if stage.position is not None:
            inner_groups = [{**group, POSITION: stage.position} for group in inner_groups]
        if any(group["params"] for group in inner_groups):
            stage.inner = self.make_inner(inner_groups, self.kind(stage.groups[0][0]))
            stage.inner_groups = stage.inner.param_groups
        for _, slot in stage.slots():
            if isinstance(slot, OnOwner):
                slot.release()
        if stage.inner is not None and not self.defaults:
            self.defaults = dict(stage.inner.defaults)
