"""What an optimizer needs from the loop, the backend and the run.

The loop and the backends know no optimizer by name. Whatever an optimizer needs from them is a trait in its catalogue
entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

WHOLE_PARAMETERS = frozenset({"single", "ddp"})
"""Backends under which every rank steps whole parameters."""
WHOLE_OR_ROWS = WHOLE_PARAMETERS | {"fsdp2"}
"""Those, and the backend under which a rank holds rows of each parameter."""
ANY_BACKEND = WHOLE_OR_ROWS | {"zero1", "zero2", "zero3"}

GRAD_NORM = "grad_norm"
"""Key of ``optim_args``: measure the norm of all gradients in a separate backward pass first, and clip by it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerRequest:
    """What a family builds an optimizer from."""

    groups: list[dict[str, Any]]
    """Parameter groups: decayed and not decayed parameters; those of target modules in a separate group, which has
    ``is_target``."""
    learning_rate: float
    adam_betas: tuple[float, float]
    adam_epsilon: float
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """The parsed ``optim_args``, with the types that the entry declares."""
    reduces: bool = False
    """Gradients arrive unreduced, and the optimizer averages them over ranks itself."""
    warmup_steps: float = 0
    """As in the arguments, for optimizers that warm up by themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """What an optimizer needs from its surroundings."""

    takes_target_modules: bool = False
    """Treats the matrices of ``optim_target_modules`` differently, and must know which they are."""
    default_targets: str | None = None
    """Value of ``optim_target_modules`` when the user sets none; None: the user must set it."""
    backends: frozenset[str] = ANY_BACKEND
    """Backends under which it trains correctly."""
    steps_whole: bool = False
    """Needs all rows of a matrix, or quantizes blocks across rows: a sharded parameter is stepped by its owner."""
    why_not: str = "its state cannot be sharded with the parameters"
    """Why it does not train under the other backends."""
    can_reduce: bool = False
    """Sends less than whole gradients when it averages them itself, which it does where nothing is clipped."""
    updates_in_backward: bool = False
    """Steps a parameter as soon as its gradient is complete, and averages that gradient over ranks itself."""
    supports_accumulation: bool = True
    """Gradients may be accumulated over several micro-batches."""


def traits_in_backward(*, takes_target_modules: bool) -> Traits:
    """Traits of an optimizer that updates in the backward pass.

    Args:
        takes_target_modules: As in ``Traits``.
    """
    return Traits(
        updates_in_backward=True,
        supports_accumulation=False,
        takes_target_modules=takes_target_modules,
        backends=WHOLE_OR_ROWS | {"zero3"},
        why_not=(
            "it keeps no gradients and almost no state that could be sharded, and weights are not sharded there; it "
            "trains under ZeRO 3, which shards the weights"
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One row of the catalogue."""

    name: str
    """The value of ``optim``."""
    family: str
    """Shared by optimizers of one package or one method."""
    build: Callable[[OptimizerRequest], torch.optim.Optimizer]
    traits: Traits = Traits()
    package: str | None = None
    """The pip requirement to install when the import fails; None if torch or transformers provides the optimizer."""
    options: Mapping[str, type] = field(default_factory=dict[str, type])
    """Keys that ``optim_args`` may hold, with their types."""
    state: str = ""
    """What it keeps per parameter, for the documentation."""
    paper: str = ""
    """arXiv number."""
