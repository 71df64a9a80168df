"""What an optimizer may demand of the loop, of the backend and of a run.

The loop and the backends know no optimizer by name. What an optimizer needs from them is a trait in its catalogue
entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerRequest:
    """What a family's factory gets to build an optimizer from."""

    groups: list[dict[str, Any]]
    """Parameter groups: decayed and not decayed parameters."""
    learning_rate: float
    adam_betas: tuple[float, float]
    adam_epsilon: float
    options: dict[str, str] = field(default_factory=dict)
    """The parsed ``optim_args`` string."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """Demands of an optimizer on what surrounds it."""

    has_train_mode: bool = False
    """Must be switched to train mode before a step and to eval mode before evaluation and saving."""
    backends: frozenset[str] = frozenset({"single", "ddp", "fsdp2", "zero1", "zero2", "zero3"})
    """Backends under which it trains correctly."""
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
    """The pip requirement to install when the import fails; None when torch has it."""
    option_names: frozenset[str] = frozenset()
    """Keys that ``optim_args`` may hold."""


Table = Iterable[Entry]
