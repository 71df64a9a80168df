"""What a run that goes on from a checkpoint keeps of its own arguments: learning rate, weight decay, betas, epsilon.

A checkpoint restores them as they were, which is right for a run that goes on. A trial of a sweep that goes on from
another trial's checkpoint has hyperparameters of its own, which act from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_OPTIONS = ("weight_decay", "betas", "eps")


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """The options of each parameter group, as the arguments set them."""

    rates: list[float] | None
    """Learning rate of each group before the schedule scales it; None for a schedule that keeps no such rate."""
    options: list[dict[str, Any]]

    @classmethod
    def of(cls, optimizer: Any, scheduler: Any) -> GroupOptions:
        """Read them from an optimizer and a schedule that were just made."""
        groups: list[dict[str, Any]] = optimizer.param_groups
        rates: list[float] | None = getattr(scheduler, "base_lrs", None)
        return cls(
            rates=None if rates is None else list(rates),
            options=[{name: group[name] for name in _OPTIONS if name in group} for group in groups],
        )

    def apply(self, optimizer: Any, scheduler: Any) -> None:
        """Set them on an optimizer and a schedule that were restored; the schedule stays where it stands."""
        groups: list[dict[str, Any]] = optimizer.param_groups
        for group, options in zip(groups, self.options, strict=True):
            group.update(options)
        if self.rates is None or list(scheduler.base_lrs) == self.rates:
            return
        saved, scheduler.base_lrs = list(scheduler.base_lrs), list(self.rates)
        for number, (group, rate, before) in enumerate(zip(groups, self.rates, saved, strict=True)):
            group["initial_lr"] = rate
            group["lr"] = _scaled(scheduler, number, rate, group["lr"] / before if before else 1.0)
        scheduler._last_lr = [group["lr"] for group in groups]


def _scaled(scheduler: Any, group: int, rate: float, factor: float) -> float:
    """The rate of a group where its schedule stands, to the last bit where the schedule is a function of the step."""
    functions = getattr(scheduler, "lr_lambdas", None)
    return rate * (functions[group](scheduler.last_epoch) if functions else factor)
