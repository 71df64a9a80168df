"""What travels between a driver and the workers that run a trainer of ``transformers`` as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raytrainer.libraries.made_arguments import MadeArguments

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainerState


@dataclass(kw_only=True)
class TrainerCall:
    """The constructor's call that each worker makes."""

    kind: type
    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]
    given_model: nn.Module | None
    """The model among the arguments, if it is a module."""
    weights: Mapping[str, Any] | None = None
    """Those that earlier workers left, if the trainer makes its model itself."""

    def make(self) -> Any:
        """Worker: construct the trainer."""
        positional = [_made(value) for value in self.positional]
        return self.kind(*positional, **{name: _made(value) for name, value in self.keywords.items()})


def _made(value: object) -> Any:
    return value.make() if isinstance(value, MadeArguments) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class CallContext:
    """What the driver knows about a call, apart from its arguments."""

    trained_run_id: str | None = None
    """The ``train()`` call that the same workers completed before; a restarted worker needs its weights."""
    trained_step: int = 0
    """The step at which it ended."""
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the arguments that were changed on the driver since the workers were started."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What the driver needs to have the trained model."""

    weights: Mapping[str, torch.Tensor]
    """In full, on the CPU."""
    model: nn.Module | None
    """The model itself, if it is not the one that the driver gave."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult:
    """What the driver gets back from a call."""

    value: Any
    state: TrainerState
