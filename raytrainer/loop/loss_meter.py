"""The training loss between two logs.

The losses of a window are kept as they are on the device and added up when somebody asks, so that a step costs no
synchronization, and a NaN can be traced to its step afterwards. A step without any target has no loss, and does not
count in a mean over steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch

_FOLD_AT = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The losses since the last log."""

    total: float = 0.0
    """Their sum over steps."""
    empty_steps: float = 0.0
    """Steps without a target; not a whole number where ranks differ, and this is their mean."""


class LossMeter:
    """Adds up this rank's losses since the last log, and the mean over ranks of the whole run.

    Args:
        first_step: Step at which the run begins.
        fills_in: Replace a NaN or infinite loss by the mean of the window so far (``logging_nan_inf_filter``).
    """

    def __init__(self, *, first_step: int, fills_in: bool = False) -> None:
        self._fills_in = fills_in
        self.logged_step = first_step
        """Step of the last log."""
        self.first_step = first_step
        """Step at which this ``train()`` call began."""
        self.logged = Window()
        """Over the steps that were logged, mean over ranks."""
        self._restored = Window()
        self._folded = 0.0
        self._empty_steps: set[int] = set()
        self._steps: list[int] = []
        self._losses: list[torch.Tensor] = []
        self._are_real: list[torch.Tensor | bool] = []
        self.first_bad_step: int | None = None
        """First step of this window whose loss was NaN or infinite on this rank."""

    def add(self, loss: torch.Tensor, step: int, *, is_real: torch.Tensor | bool = True) -> None:
        """Add a micro-batch's share of the loss of an optimizer step, without synchronization.

        Args:
            loss: A scalar.
            step: Number of the step.
            is_real: Whether the step has a target.
        """
        self._losses.append(loss)
        self._steps.append(step)
        self._are_real.append(is_real)
        if len(self._losses) >= _FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        if not self._losses:
            return
        if len(self._losses) == 1:
            values = [float(self._losses[0].item())]
        else:
            stacked = torch.stack([loss.reshape(()) for loss in self._losses])
            values = cast("list[float]", stacked.double().tolist())
        for value, step, is_real in zip(values, self._steps, _as_bools(self._are_real), strict=True):
            if not is_real:
                self._empty_steps.add(step)
                continue
            if not math.isfinite(value) and self.first_bad_step is None:
                self.first_bad_step = step
            self._folded += value if math.isfinite(value) or not self._fills_in else self._mean_until(step)
        self._losses, self._steps, self._are_real = [], [], []

    def _mean_until(self, step: int) -> float:
        """The mean of the window before a step, as transformers counts its steps."""
        return (self._restored.total + self._folded) / (step - self.logged_step)

    def window(self) -> Window:
        """This rank's losses since the last log. Synchronizes with the device."""
        self._fold()
        empty_steps = self._restored.empty_steps + len(self._empty_steps)
        return Window(total=self._restored.total + self._folded, empty_steps=empty_steps)

    def restore_window(self, window: Window, logged_step: int) -> None:
        """Go on with a window that a checkpoint cut in two."""
        self._restored = window
        self.logged_step = logged_step

    def close_window(self, over_ranks: Window, step: int) -> float:
        """End the window at ``step``; return its loss per step with a target, 0 where there is none."""
        steps = step - self.logged_step - over_ranks.empty_steps
        self.logged = Window(
            total=self.logged.total + over_ranks.total,
            empty_steps=self.logged.empty_steps + over_ranks.empty_steps,
        )
        self.logged_step = step
        self._restored, self._folded, self._empty_steps = Window(), 0.0, set()
        self.first_bad_step = None
        return over_ranks.total / steps if steps > 0 else 0.0

    def empty_steps(self, open_window: Window) -> float:
        """Steps without a target in this ``train()`` call."""
        return self.logged.empty_steps + open_window.empty_steps

    def average(self, open_window: Window, step: int) -> float:
        """Mean loss per step with a target of this ``train()`` call."""
        steps = step - self.first_step - self.empty_steps(open_window)
        return (self.logged.total + open_window.total) / max(steps, 0.001)


def _as_bools(values: list[torch.Tensor | bool]) -> list[bool]:
    on_device = [value for value in values if isinstance(value, torch.Tensor)]
    known = iter(cast("list[bool]", torch.stack(on_device).tolist()) if on_device else [])
    return [next(known) if isinstance(value, torch.Tensor) else value for value in values]
