"""Whether optimizer, schedule and model belong together.

An optimizer steps the parameters that it was given, and a schedule sets the learning rate of the optimizer that it was
given, whatever trains beside them. An optimizer of another model, or of a copy of this one, would step nothing that is
trained, and no error would come of it. Those of the user's are checked on the driver; those that hooks and
``model_init`` make, on the workers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from raytrainer.errors import ModelError
from raytrainer.layout.tensor_layout import full_shape

_SHOWN = 5


def check_covers(optimizer: Any, parameters: Collection[tuple[str, nn.Parameter]]) -> None:
    """Check that an optimizer has at least one of a model's parameters; a callback may unfreeze it later.

    Args:
        optimizer: Has ``param_groups``, or is not checked.
        parameters: Names and parameters of the model.

    Raises:
        ModelError: If it has none of them.
    """
    groups: Any = getattr(optimizer, "param_groups", None)
    if groups is None or not parameters:
        return
    held = {id(one) for group in groups for one in group["params"]}
    if any(id(parameter) in held for _, parameter in parameters):
        return
    raise ModelError(
        f"The optimizer ({type(optimizer).__name__}) holds {len(held)} parameters, none of which is among the "
        f"{len(parameters)} of this model, so it would train nothing. Build it from the parameters of "
        "the model that you pass, model.parameters(), after any change that replaces them (adapters, copies, new "
        "layers)."
    )


def check_tied(optimizer: Any, schedule: Any) -> None:
    """Check that a schedule sets the learning rate of an optimizer.

    Args:
        optimizer: What steps; None if it is built later.
        schedule: Has an ``optimizer``, or is not checked.

    Raises:
        ModelError: If it sets that of another optimizer.
    """
    its_own = getattr(schedule, "optimizer", None)
    if its_own is None:
        return
    name = type(schedule).__name__
    if optimizer is None:
        raise ModelError(
            f"optimizers=(None, {name}) has a schedule and no optimizer, so the schedule would set the learning rate "
            f"of its own {type(its_own).__name__}, which trains nothing. Pass both: "
            "optimizers=(schedule.optimizer, schedule)."
        )
    if not _share_groups(optimizer, its_own):
        raise ModelError(
            f"The schedule ({name}) sets the learning rate of another {type(its_own).__name__} than the "
            f"{type(optimizer).__name__} that trains, so the rate would never change. Build the schedule from the "
            "optimizer that you pass, or leave it out."
        )


def _share_groups(one: Any, other: Any) -> bool:
    one, other = _innermost(one), _innermost(other)
    if one is other:
        return True
    groups: list[Any] = list(getattr(one, "param_groups", None) or [])
    others: list[Any] = list(getattr(other, "param_groups", None) or [])
    # What has no groups cannot be compared.
    return not groups or not others or any(group is another for group in groups for another in others)


def _innermost(optimizer: Any) -> Any:
    inner = getattr(optimizer, "optimizer", None)
    return optimizer if inner is None or inner is optimizer else _innermost(inner)


def describe_left_out(left_out: Collection[str], parameters: Iterable[tuple[str, nn.Parameter]]) -> str:
    """Say which trainable parameters an optimizer does not have.

    Args:
        left_out: Their names.
        parameters: Names and parameters that are trained.

    Returns:
        One or two sentences, which count them.
    """
    sizes = {name: full_shape(parameter).numel() for name, parameter in parameters}
    missing = sum(sizes.get(name, 0) for name in left_out)
    return (
        f"The optimizer does not have {len(left_out)} of {len(sizes)} trainable parameters ({missing:,} of "
        f"{sum(sizes.values()):,} numbers), so they stay as they are: {listed(sorted(left_out))}. Give them to the "
        "optimizer, or freeze them with requires_grad_(False) if they should not train."
    )


def listed(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
