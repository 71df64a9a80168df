"""Who is given ``num_items_in_batch``: whatever takes it by its signature, and does not reject it when called.

A function with ``**kwargs`` may pass them on to one that rejects the count. Only a call can tell, so the first call
that is rejected is made again without it, from the same random state, and the user is told.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import nn

from raytrainer.loop.loss_division import WatchedCount, plain
from raytrainer.loop.notes import tell
from raytrainer.trainer_protocol import TrainerProtocol

NAME = "num_items_in_batch"
_REJECTED = re.compile(r"keyword|invalid combination of arguments")


def takes_count(function: Callable[..., Any]) -> bool:
    """Whether a function takes ``num_items_in_batch``, as far as its signature tells."""
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # a function of C without a signature
        return True
    return any(one.name == NAME or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def passes_count_on(function: Callable[..., Any]) -> bool:
    """Whether a function takes ``num_items_in_batch`` among its ``**kwargs`` alone."""
    return takes_count(function) and NAME not in inspect.signature(function).parameters


def rejects_count(error: TypeError) -> bool:
    """Whether an error says that a function was given ``num_items_in_batch`` and does not take it."""
    return NAME in str(error) and _REJECTED.search(str(error)) is not None


def is_counted_here(count: torch.Tensor | int | None) -> bool:
    """Whether a step is known to have targets, without waiting for a device.

    Args:
        count: Targets of the step over all ranks, a scalar; None where they are not counted.
    """
    if isinstance(count, torch.Tensor):
        return count.is_cpu and int(count) > 0
    return count is not None and count > 0


class LossFunction:
    """A user's ``compute_loss_func``: whether it takes the count, and whether it was seen to divide by it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.takes_count = takes_count(function)
        self.divides = False
        """It read the count, in this call or an earlier one."""

    def __call__(self, trainer: TrainerProtocol, outputs: Any, labels: Any, count: Any) -> Any:
        """Call it.

        Args:
            trainer: The trainer.
            outputs: Those of the model.
            labels: Those that were taken out of the batch, or None.
            count: Targets of the step over all ranks, a scalar tensor; None where they are not counted.

        Returns:
            The loss, a scalar.
        """
        if not self.takes_count:
            return self.function(outputs, labels)
        watched = count
        if isinstance(count, torch.Tensor) and not self.divides:
            watched = WatchedCount.watch(plain(count).detach())
        try:
            loss = self.function(outputs, labels, num_items_in_batch=watched)
        except TypeError as error:
            if not rejects_count(error):
                raise
            self.takes_count = False
            tell(trainer._runtime, f"compute_loss_func is called without num_items_in_batch: {error}.")
            return self.function(outputs, labels)
        if isinstance(watched, WatchedCount) and watched.was_used:
            self.divides = True
            if watched.was_only_taken_out and trainer.loss_is_scaled_for_ga is None:
                tell(trainer._runtime, cannot_be_seen("compute_loss_func"))
        return loss


def cannot_be_seen(what: str) -> str:
    """What is said where the count leaves its tensor, by ``item()`` for instance."""
    return (
        f"{what} takes num_items_in_batch out of its tensor, so it cannot be seen whether the loss is divided by it. "
        "It is taken as divided. If it is the mean of its micro-batch, set loss_is_scaled_for_ga = False on the "
        "Trainer; True if it is divided, which also ends this warning."
    )


def loss_function_of(trainer: TrainerProtocol) -> LossFunction | None:
    """The ``compute_loss_func`` of a trainer, with what was seen of it so far."""
    known, function = trainer._process.loss_function, trainer.compute_loss_func
    if function is None:
        return None
    if known is None or known.function is not function:
        known = trainer._process.loss_function = LossFunction(function)
    return known


def forward_with_count(trainer: TrainerProtocol, model: nn.Module, inputs: dict[str, Any], count: Any) -> Any:
    """Call a model with ``num_items_in_batch``, if it takes it.

    Args:
        trainer: The trainer, which learns if the model rejects it.
        model: The model, wrapped or not.
        inputs: The batch, on the rank's device.
        count: Targets of the step over all ranks, a scalar tensor; None where they are not counted.

    Returns:
        The model's outputs.
    """
    if count is None or not trainer.model_accepts_loss_kwargs:
        return model(**inputs)
    if trainer._process.model_took_count:
        return model(**inputs, num_items_in_batch=count)
    try:
        with _undone_by_error(trainer.model):
            outputs = model(**inputs, num_items_in_batch=count)
    except TypeError as error:
        if not rejects_count(error):
            raise
        trainer.model_accepts_loss_kwargs = False
        scaling = trainer._process.loss_scaling
        if scaling is not None:
            scaling.remember(False)
        what = type(trainer.model).__name__
        tell(
            trainer._runtime,
            f"{what} is called without num_items_in_batch: {error}. Its loss is taken as the mean of a micro-batch. "
            f"Set accepts_loss_kwargs = False on {what} to say so beforehand.",
        )
        return model(**inputs)
    trainer._process.model_took_count = True
    return outputs


@contextlib.contextmanager
def _undone_by_error(model: nn.Module) -> Generator[None]:
    """On an error inside, put random state and buffers back, so that a second forward pass is like a first one."""
    devices = list({one.device for one in model.parameters() if one.device.type == "cuda"})
    states = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    except TypeError:
        torch.set_rng_state(states[0])
        for device, state in zip(devices, states[1], strict=True):
            torch.cuda.set_rng_state(state, device)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        raise


def call_compute_loss(trainer: TrainerProtocol, model: nn.Module, inputs: dict[str, Any], count: Any) -> Any:
    """Call ``compute_loss`` in training, with the count if it takes it.

    Args:
        trainer: The trainer.
        model: The wrapped model.
        inputs: The batch, on the rank's device.
        count: Targets of the step over all ranks, a scalar tensor; None where they are not counted.

    Returns:
        The loss, a scalar.
    """
    scaling = trainer._process.loss_scaling
    assert scaling is not None
    if not scaling.takes_count:
        return trainer.compute_loss(model, inputs)
    if not scaling.may_reject_count:
        return trainer.compute_loss(model, inputs, num_items_in_batch=count)
    given = dict(inputs)  # it may take labels out
    try:
        with _undone_by_error(trainer.model):
            loss = trainer.compute_loss(model, given, num_items_in_batch=count)
    except TypeError as error:
        if not rejects_count(error):
            raise
        scaling.leave_count_out()
        tell(trainer._runtime, f"compute_loss is called without num_items_in_batch: {error}.")
        return trainer.compute_loss(model, inputs)
    scaling.may_reject_count = False
    return loss
