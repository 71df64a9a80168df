"""How a micro-batch's loss becomes the loss of an optimizer step.

The loss of a step is the mean over all target items of its micro-batches on all ranks. A loss that was divided by
that number of items needs one thing more: DDP averages gradients over ranks, so it is multiplied by their number.
A loss that is the mean of its own micro-batch is divided by the micro-batches of the step. Which of the two
applies is observed (``loss_division``), not guessed, for models as well as for users' own ``compute_loss`` and
``compute_loss_func``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raytrainer.loop.item_count import LossFunction, cannot_be_seen, passes_count_on, takes_count
from raytrainer.loop.loss_division import ForwardWatch, WatchedCount


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
        function: LossFunction | None,
        smooths: bool,
        declared: bool | None,
        counted_ranks: int,
        model: nn.Module,
        model_accepts_count: bool,
        report: Callable[[str], None],
    ) -> None:
        """Store what is known before the first forward pass.

        Args:
            override: The user's own ``compute_loss`` function; None when it is ours.
            function: The user's ``compute_loss_func``.
            smooths: A label smoother divides by the count.
            declared: The trainer's ``loss_is_scaled_for_ga``; None leaves it to us.
            counted_ranks: Ranks over which items are counted: all, or 1 without ``average_tokens_across_devices``.
            model: The unwrapped model, watched in its first forward pass.
            model_accepts_count: Whether it takes ``num_items_in_batch``.
            report: Tells the user what cannot be observed.
        """
        self._report = report
        self._function = function
        self._smooths = smooths and function is None
        self._declared = declared
        self._ranks_factor = counted_ranks
        self._override = override
        self._override_takes_count = False
        self._override_divides: bool | None = None
        if override is not None:
            self._override_takes_count = takes_count(override)
        self._override_handles_ranks = override is not None and names_world_size(override)
        self._watch = ForwardWatch(model) if model_accepts_count and not self._smooths else None
        self._base_divided: bool | None = None
        self.may_reject_count = override is not None and passes_count_on(override)
        """The user's ``compute_loss`` may pass the count on to what does not take it; False once it has not."""
        self.was_divided = False
        """Whether the loss that was scaled last was divided by the count."""
        self.positive_count: Any = None
        """The count of the step in progress, if it is known to be no zero."""
        self.weight = 1.0
        """What the next micro-batch counts in a mean over ranks; 0 for a stand-in. Not 1 only where the last round of
        the data is not filled up."""
        self.weight_of_mean = 1.0
        """What it counts if its loss is its own mean; 0 also where it has no target."""

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
        function_takes_count = self._function is not None and self._function.takes_count
        return self._smooths or function_takes_count or self.model_divides or self._override_takes_count

    def close(self) -> None:
        """Stop watching the model."""
        if self._watch is not None:
            self._watch.close()

    # ---- around the user's compute_loss -------------------------------------------------------------------------

    def count_for_override(self, count: torch.Tensor | None) -> torch.Tensor | None:
        """Return the count, a scalar, in the form in which the user's ``compute_loss`` gets it."""
        self._base_divided = None
        if self._watch is not None and self._watch.is_open:
            self._watch.leave_uncompiled()
        if count is None:
            return None
        if count is not self.positive_count:
            count = count.clamp(min=1)  # A step without a target has a loss of 0, not of 0/0.
        if self._override is None or self._override_divides is not None:
            return count
        return WatchedCount.watch(count)

    @property
    def takes_count(self) -> bool:
        """Whether the ``compute_loss`` that runs takes ``num_items_in_batch``."""
        return self._override is None or self._override_takes_count

    def leave_count_out(self) -> None:
        """The user's ``compute_loss`` has passed the count on to what rejects it."""
        self._override_takes_count = False

    def scale_base_loss(self, loss: torch.Tensor, count: torch.Tensor | None) -> torch.Tensor:
        """For our own ``compute_loss``: undo DDP's mean over ranks for a scalar loss divided by the count."""
        if self._watch is not None and self._watch.is_unclear and self._declared is None:
            self._watch.is_unclear = False
            self._report(cannot_be_seen("The model"))
        self._base_divided = count is not None and self._base_divides()
        return loss * self._ranks_factor if self._base_divided and self._ranks_factor != 1 else loss

    def _base_divides(self) -> bool:
        """Whether our own ``compute_loss`` returned what was divided by the count."""
        if self._function is None:
            return self._smooths or self.model_divides
        if self._declared is not None:
            return self._declared
        # A model that has its labels taken away divides nothing; one that does has made the loss that is returned.
        return self._function.divides or self.seen is True

    def scale_for_step(
        self, loss: torch.Tensor, count: torch.Tensor | None, num_micro_batches: int
    ) -> torch.Tensor:
        """Make a micro-batch's loss its share of the step's loss.

        Args:
            loss: What ``compute_loss`` returned, a scalar.
            count: What it was given as ``num_items_in_batch``.
            num_micro_batches: Micro-batches of this step on this rank.
        """
        self.was_divided = self._is_divided(count) if self._declared is None else self._declared
        if not self.was_divided:
            return loss / num_micro_batches * self.weight_of_mean
        if self.weight == 0:
            return loss * 0.0  # its items were not counted
        base_ran = self._base_divided is not None
        handles_ranks = base_ran or self._override_handles_ranks or self._declared is not None
        return loss if self._override is None or handles_ranks else loss * self._ranks_factor

    def _is_divided(self, count: torch.Tensor | None) -> bool:
        if self._base_divided is not None:
            return self._base_divided
        if count is None:
            return False
        if isinstance(count, WatchedCount):
            seen = self._watch.model_divides if self._watch is not None else None
            # A model that got the count and left it alone: what touched it was the way there (a copy to a device).
            self._override_divides = count.was_used and seen is not False
            if self._override_divides and count.was_only_taken_out:
                self._report(cannot_be_seen("compute_loss"))
        return bool(self._override_divides)
