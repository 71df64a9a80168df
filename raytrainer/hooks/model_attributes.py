"""Attributes of a trainer that follow from its model, unless somebody sets them.

``transformers.Trainer`` sets them in its constructor, and subclasses correct them after it. Here the model may come
later, on the workers. So a value that was set lies over the one that was found, wherever and whenever either came.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from raytrainer.loop.model_traits import (
    ModelTraits,
    devices_of,
    inspect_model,
    smoother_shifts,
    without_adapter,
)
from raytrainer.trainer_protocol import TrainerParts

logger = logging.getLogger(__name__)


class Found:
    """An attribute that is found in the model of the trainer, unless it was set.

    Args:
        find: Gives the value for a trainer.
    """

    def __init__(self, find: Callable[[Any], Any]) -> None:
        self._find = find

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, trainer: Any, owner: type | None = None) -> Any:
        if trainer is None:
            return self
        own = cast("dict[str, Any]", vars(trainer))
        return own[self._name] if self._name in own else self._find(trainer)

    def __set__(self, trainer: Any, value: object) -> None:
        vars(trainer)[self._name] = value


class ModelAttributes(TrainerParts):
    """What a trainer knows of its model."""

    _traits: ModelTraits | None
    """Found in the model; None as long as there is none."""

    if TYPE_CHECKING:
        is_model_parallel: bool
        place_model_on_device: bool
    else:
        label_names = Found(
            lambda self: self._traits.label_names if self._traits else list(self.args.label_names or [])
        )
        can_return_loss = Found(lambda self: self._traits is not None and self._traits.can_return_loss)
        model_accepts_loss_kwargs = Found(
            lambda self: self._traits is not None and self._traits.accepts_loss_kwargs
        )
        label_smoother = Found(lambda self: self._traits.label_smoother if self._traits else None)
        is_model_parallel = Found(lambda self: len(devices_of(self._own_model)) > 1)
        place_model_on_device = Found(lambda self: self.args.place_model_on_device is not False)

    def _inspect(self, model: nn.Module) -> None:
        """Find the attributes of a model, unless they are known from one of its class."""
        if self._traits is None or self._traits.model_class is not type(without_adapter(model)):
            if self._traits is not None:
                self._signature_columns = None
            self._traits = inspect_model(model, self.args)

    def _use_model(self, model: nn.Module) -> None:
        """Set the model to train."""
        self.model = self.model_wrapped = model
        self._inspect(model)
        assert self._traits is not None
        self._process.model_took_count = False
        self._process.loss_shifts_labels = self._traits.loss_shifts_labels
        self._process.smoother_shifts_labels = smoother_shifts(model)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """Move a model to the device of this rank, unless it is spread over several."""
        if len(devices_of(model)) > 1:
            logger.warning(
                "The model stays on %s, where it was loaded.", ", ".join(sorted(devices_of(model)))
            )
        else:
            model.to(device)
