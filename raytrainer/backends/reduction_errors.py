"""What is said when DDP cannot reduce gradients: the argument that decides, and the parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import cast

from torch import nn
from torch.nn.parallel import DistributedDataParallel

_INDICES = re.compile(r"did not receive grad for rank \d+:((?: \d+)+)")
_MOST = 8


def explain_reduction(error: Exception, model: nn.Module, finds_unused: bool | None) -> str | None:
    """Describe an error of DDP about unused parameters, or about parameters that were used twice; None for others.

    Args:
        error: Was raised in a forward or backward pass.
        model: The wrapped model.
        finds_unused: ``ddp_find_unused_parameters`` as it was asked for.
    """
    text = str(error)
    if not isinstance(model, DistributedDataParallel):
        return None
    if "finished reduction in the prior iteration" in text:
        return _unused(text, model, finds_unused)
    if "mark a variable ready only once" in text:
        return (
            "parameters that the backward pass meets twice, as it does where activations are recomputed. Set "
            "ddp_find_unused_parameters=False, or recompute with use_reentrant=False."
        )
    return None


def _unused(text: str, model: DistributedDataParallel, finds_unused: bool | None) -> str:
    parameters = cast("Iterable[tuple[str, nn.Parameter]]", model.module.named_parameters())
    trained = [name for name, parameter in parameters if parameter.requires_grad]
    found = _INDICES.search(text)
    indices = [int(one) for one in found[1].split()] if found is not None else []
    names = [trained[index] for index in indices if index < len(trained)]
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    listed = f"{', '.join(names[:_MOST])}{more}" if names else "some parameters"
    why = (
        "ddp_find_unused_parameters=False says that there are none"
        if finds_unused is False
        else "unused parameters are not looked for, because activations are recomputed"
    )
    return (
        f"the loss does not depend on {listed}, and {why}. Set ddp_find_unused_parameters=True (with recomputed "
        "activations also use_reentrant=False), or freeze these parameters with requires_grad_(False)."
    )
