"""What an optimizer may demand of the loop, of the backend and of a run.

The loop and the backends know no optimizer by name. What an optimizer needs from them is a trait in its catalogue
entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

WHOLE_PARAMETERS = frozenset({"single", "ddp"})
"""Backends on which every rank steps whole parameters."""
ON_ROWS = WHOLE_PARAMETERS | {"fsdp2"}
"""Also those on which a rank has rows of each parameter."""
ANY_BACKEND = WHOLE_PARAMETERS | {"fsdp2", "zero1", "zero2", "zero3"}


BACKENDS_IN_BACKWARD = ON_ROWS | {"zero3"}
WHY_NOT_IN_BACKWARD = (
    "it leaves no gradients and next to no state to cut, and weights are whole there; it trains under ZeRO 3, which "
    "cuts them"
)
GRAD_NORM = "grad_norm"
"""Key of ``optim_args``: measure the norm of all gradients in a backward pass of its own, and clip by it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerRequest:
    """What a family's factory gets to build an optimizer from."""

    groups: list[dict[str, Any]]
    """Parameter groups: decayed and not decayed parameters; those of target modules in groups of their own, which
    have ``is_target``."""
    learning_rate: float
    adam_betas: tuple[float, float]
    adam_epsilon: float
    options: dict[str, Any] = field(default_factory=dict)
    """The parsed ``optim_args``, in the types that the entry says."""
    reduces: bool = False
    """Gradients will be those of this rank alone, and are averaged over ranks by the optimizer."""
    warmup_steps: float = 0
    """As the arguments have it, for optimizers that warm up by themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """Demands of an optimizer on what surrounds it."""

    has_train_mode: bool = False
    """Must be switched to train mode before a step and to eval mode before evaluation and saving."""
    takes_target_modules: bool = False
    """Treats the matrices of ``optim_target_modules`` differently, and must be told which."""
    default_targets: str | None = None
    """What ``optim_target_modules`` is when the user names nothing; None: there must be a name."""
    backends: frozenset[str] = ANY_BACKEND
    """Backends under which it trains correctly."""
    steps_whole: bool = False
    """Needs all rows of a matrix, or quantizes runs of it: one that is cut is stepped by an owner."""
    why_not: str = "its state does not follow parameters that are cut"
    """Why it does not train under the others."""
    can_reduce: bool = False
    """Sends less than whole gradients when it reduces them by itself, which it does where nothing is clipped."""
    updates_in_backward: bool = False
    """Steps a parameter when its gradient is there, and reduces it over ranks by itself."""
    supports_accumulation: bool = True
    """Gradients may be accumulated over several micro-batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One row of the catalogue."""

    name: str
    """The value of ``optim``."""
    family: str
    """Optimizers that share a package."""
    build: Callable[[OptimizerRequest], torch.optim.Optimizer]
    traits: Traits = Traits()
    package: str | None = None
    """The pip requirement to install when the import fails; None when torch or transformers has it."""
    options: Mapping[str, type] = field(default_factory=dict)
    """Keys that ``optim_args`` may hold, with their types."""
    state: str = ""
    """What it keeps per parameter, for the documentation."""
    paper: str = ""
    """arXiv number."""


Table = Iterable[Entry]
