"""How parameters are added to an optimizer that trains already, with its schedule."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import GreedyLR

from raytrainer.optim.composition.composed import Composed
from raytrainer.optim.traits import Traits

_PER_GROUP = ("lr_lambdas", "min_lrs", "max_lrs", "base_momentums", "max_momentums")
"""Lists of schedules with an entry for each group; further ones take the entry of the first."""


def why_not_addable(optimizer: Any, traits: Traits | None) -> str | None:
    """Why an optimizer takes no further parameters; None if it does.

    Args:
        optimizer: The optimizer, wrapped or not.
        traits: Those of its entry in the catalogue; None for the user's own.
    """
    raw = getattr(optimizer, "optimizer", optimizer)
    name = type(raw).__name__
    if traits is not None and traits.updates_in_backward:
        return f"{name} steps parameters by hooks that it set when it was built"
    if traits is not None and traits.takes_target_modules:
        return f"{name} treats its target modules differently, and was told which they are when it was built"
    if isinstance(raw, Composed):
        return f"{name} assigned its parameters to the optimizers that it consists of when it was built"
    return None


def add_group(
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    *,
    weight_decay: float,
    is_like_others: bool,
) -> None:
    """Add a group of parameters.

    Args:
        optimizer: The raw optimizer.
        parameters: Those of the group.
        weight_decay: Of the group.
        is_like_others: It has the settings of the group with this decay; otherwise the optimizer's defaults, with the
            learning rate where the schedule has brought that of the first group.
    """
    groups: list[dict[str, Any]] = optimizer.param_groups
    like = next((group for group in groups if group.get("weight_decay") == weight_decay), groups[0])
    if is_like_others:
        options = {
            key: copy.deepcopy(value) for key, value in like.items() if key not in {"params", "param_names"}
        }
        if "weight_decay" in options:
            options["weight_decay"] = weight_decay
    else:
        options = _scheduled_defaults(optimizer.defaults, groups[0])
    optimizer.add_param_group({**options, "params": parameters})


def _scheduled_defaults(defaults: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    rate = defaults.get("lr", first["lr"])
    initial = first.get("initial_lr")
    if initial is None:
        return {"lr": rate}
    return {"lr": rate * first["lr"] / initial if initial else first["lr"], "initial_lr": rate}


def extend_schedule(schedule: Any, optimizer: torch.optim.Optimizer) -> None:
    """Let a schedule, and those that it consists of, follow groups that were added to its optimizer.

    Args:
        schedule: Of torch's kind; others are left alone.
        optimizer: The raw optimizer.
    """
    if not isinstance(schedule, LRScheduler | GreedyLR):
        return
    for part in getattr(schedule, "_schedulers", ()):
        extend_schedule(part, optimizer)
    values: dict[str, Any] = vars(schedule)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    wanted = len(optimizer.param_groups)
    for name, key in (("base_lrs", "initial_lr"), ("_init_lrs", "initial_lr"), ("_last_lr", "lr")):
        rates = cast("list[Any] | None", values.get(name))
        if rates is not None:
            values[name] = [*rates, *(group[key] for group in optimizer.param_groups[len(rates) :])]
    for name in _PER_GROUP:
        known = cast("list[Any] | None", values.get(name))
        if known:
            values[name] = [*known, *known[:1] * (wanted - len(known))]
