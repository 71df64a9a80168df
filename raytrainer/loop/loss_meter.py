"""The training loss between two logs.

The losses of a window are kept as they are on the device and added up when somebody asks, so that a step costs no
synchronisation, and a NaN can be traced to its step afterwards.
"""

from __future__ import annotations

import math
from typing import cast

import torch

_FOLD_AT = 1024


class LossMeter:
    """Adds up this rank's losses since the last log, and the mean over ranks of the whole run."""

    def __init__(self, *, first_step: int) -> None:
        self.logged_step = first_step
        """Step of the last log."""
        self.first_step = first_step
        """Step at which this ``train()`` call began."""
        self.logged_total = 0.0
        """Sum over the steps that were logged, mean over ranks."""
        self._folded = 0.0
        self._steps: list[int] = []
        self._losses: list[torch.Tensor] = []
        self.first_bad_step: int | None = None
        """First step of this window whose loss was NaN or infinite on this rank."""

    def add(self, loss: torch.Tensor, step: int) -> None:
        """Add a micro-batch's share of the loss of optimizer step ``step``, a scalar, without synchronization."""
        self._losses.append(loss)
        self._steps.append(step)
        if len(self._losses) >= _FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        if not self._losses:
            return
        values = cast(
            "list[float]", torch.stack([loss.reshape(()) for loss in self._losses]).double().tolist()
        )
        for value, step in zip(values, self._steps, strict=True):
            if not math.isfinite(value) and self.first_bad_step is None:
                self.first_bad_step = step
            self._folded += value
        self._losses, self._steps = [], []

    def window_sum(self) -> float:
        """Sum of this rank's losses since the last log. Synchronises with the device."""
        self._fold()
        return self._folded

    def restore_window(self, window_sum: float, logged_step: int) -> None:
        """Go on with a window that a checkpoint cut in two."""
        self._folded = window_sum
        self.logged_step = logged_step

    def close_window(self, mean_over_ranks: float, step: int) -> float:
        """End the window at ``step``; return its loss per step."""
        per_step = mean_over_ranks / (step - self.logged_step)
        self.logged_total += mean_over_ranks
        self.logged_step = step
        self._folded = 0.0
        self.first_bad_step = None
        return per_step

    def average(self, open_window: float, step: int) -> float:
        """Mean loss per step of this ``train()`` call."""
        return (self.logged_total + open_window) / max(step - self.first_step, 0.001)
