"""How a micro-batch's loss becomes the loss of an optimizer step.

The loss of a step is the mean over all target items of its micro-batches on all ranks. A loss that was divided by
that number of items needs one thing more: DDP averages gradients over ranks, so it is multiplied by their number.
A loss that is the mean of its own micro-batch is divided by the micro-batches of the step. Which of the two
applies is observed (``loss_division``), not guessed, for models as well as for users' own ``compute_loss``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raytrainer.loop.loss_division import ForwardWatch, WatchedCount


def takes_count(function: Callable[..., Any]) -> bool:
    """Whether a ``compute_loss`` takes ``num_items_in_batch``."""
    return any(
        parameter.name == "num_items_in_batch" or parameter.kind is inspect.Parameter.VAR_KEYWORD
        for parameter in inspect.signature(function).parameters.values()
    )


def names_world_size(function: Callable[..., Any]) -> bool:
    """Whether a function's code handles the number of ranks by itself."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and bool({"num_processes", "world_size"} & set(code.co_names))


class LossScaling:
    """The scaling rules of one run, learnt from its first step."""

    def __init__(
        self,
        *,
        override: Any | None,
        divides_itself: bool,
        declared: bool | None,
        world_size: int,
        averages_tokens: bool,
        model: nn.Module,
        model_accepts_count: bool,
    ) -> None:
        """Store what is known before the first forward pass.

        Args:
            override: The user's own ``compute_loss`` function; None when it is ours.
            divides_itself: Our ``compute_loss`` divides by the count: a ``compute_loss_func``, or a label smoother.
            declared: The trainer's ``loss_is_scaled_for_ga``; None leaves it to us.
            world_size: Number of ranks.
            averages_tokens: ``average_tokens_across_devices``.
            model: The unwrapped model, watched in its first forward pass.
            model_accepts_count: Whether it takes ``num_items_in_batch``.
        """
        self._divides_itself = divides_itself
        self._declared = declared
        self._ranks_factor = world_size if averages_tokens else 1
        self._override = override
        self._override_takes_count = False
        self._override_divides: bool | None = None
        if override is not None:
            self._override_takes_count = takes_count(override)
        self._override_handles_ranks = override is not None and names_world_size(override)
        self._watch = ForwardWatch(model) if model_accepts_count and not divides_itself else None
        self._base_ran = False
        self.weight = 1.0
        """What the next micro-batch counts in a mean over ranks; 0 for a stand-in. Not 1 only where the last round of
        the data is not filled up."""

    @property
    def model_divides(self) -> bool:
        """Whether the model divides its loss by the count, as far as it was seen."""
        return self._watch is not None and self._watch.model_divides is not False

    @property
    def seen(self) -> bool | None:
        """What the watched forward pass showed; None before it, and where none is watched."""
        return self._watch.model_divides if self._watch is not None else None

    def remember(self, seen: bool | None) -> None:
        """Take what an earlier part of the run saw, so that no forward pass need be watched."""
        if self._watch is not None and seen is not None:
            self._watch.model_divides = seen
            self._watch.close()

    @property
    def needs_count(self) -> bool:
        """Whether anybody uses ``num_items_in_batch``, so that it must be summed over ranks."""
        return self._divides_itself or self.model_divides or self._override_takes_count

    def close(self) -> None:
        """Stop watching the model."""
        if self._watch is not None:
            self._watch.close()

    # ---- around the user's compute_loss -------------------------------------------------------------------------

    def count_for_override(self, count: torch.Tensor | None) -> torch.Tensor | None:
        """Return the count, a scalar, in the form in which the user's ``compute_loss`` gets it."""
        self._base_ran = False
        if self._watch is not None:
            self._watch.leave_uncompiled()
        if self._override is None or self._override_divides is not None or count is None:
            return count
        return WatchedCount.watch(count)

    @property
    def takes_count(self) -> bool:
        """Whether the ``compute_loss`` that runs takes ``num_items_in_batch``."""
        return self._override is None or self._override_takes_count

    def scale_base_loss(self, loss: torch.Tensor, count: torch.Tensor | None) -> torch.Tensor:
        """For our own ``compute_loss``: undo DDP's mean over ranks for a scalar loss divided by the count."""
        self._base_ran = True
        if count is None or self._ranks_factor == 1 or not (self._divides_itself or self.model_divides):
            return loss
        return loss * self._ranks_factor

    def scale_for_step(
        self, loss: torch.Tensor, count: torch.Tensor | None, num_micro_batches: int
    ) -> torch.Tensor:
        """Make a micro-batch's loss its share of the step's loss.

        Args:
            loss: What ``compute_loss`` returned, a scalar.
            count: What it was given as ``num_items_in_batch``.
            num_micro_batches: Micro-batches of this step on this rank.
        """
        is_divided = self._is_divided(count) if self._declared is None else self._declared
        if not is_divided:
            return loss / num_micro_batches * self.weight
        if self.weight == 0:
            return loss * 0.0  # its items were not counted
        handles_ranks = self._base_ran or self._override_handles_ranks or self._declared is not None
        return loss if self._override is None or handles_ranks else loss * self._ranks_factor

    def _is_divided(self, count: torch.Tensor | None) -> bool:
        if self._divides_itself and (self._override is None or self._base_ran):
            return True
        if count is None:
            return False
        if self._override is None or self._base_ran:
            return self.model_divides
        if isinstance(count, WatchedCount):
            seen = self._watch.model_divides if self._watch is not None else None
            # A model that got the count and left it alone: what touched it was the way there (a copy to a device).
            self._override_divides = count.was_read and seen is not False
        return bool(self._override_divides)
