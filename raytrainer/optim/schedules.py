"""Which learning-rate schedule a run has, and which schedules wait for an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers import optimization
from transformers.optimization import GreedyLR

from raytrainer.arguments.training_arguments import TrainingArguments


def build_schedule(args: TrainingArguments, optimizer: torch.optim.Optimizer, max_steps: int) -> LRScheduler:
    """Build the schedule that the arguments name.

    Args:
        args: Name the schedule and how long it warms up.
        optimizer: The raw optimizer, not a wrapped one; wrapped optimizers would step the schedule once per process.
        max_steps: Optimizer steps of the whole run.
    """
    make = cast("Callable[..., LRScheduler]", optimization.get_scheduler)
    return make(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(max_steps),
        num_training_steps=max_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )


def waits_for_metric(schedule: LRScheduler) -> bool:
    """Whether the schedule steps on an evaluation's metric rather than on every optimizer step."""
    return isinstance(schedule, ReduceLROnPlateau | GreedyLR)


def current_learning_rate(schedule: Any, optimizer: torch.optim.Optimizer) -> float:
    """The learning rate that the next optimizer step uses for the first parameter group."""
    # Schedules from outside torch do not always know their last rate, for instance after a resume.
    if isinstance(schedule, LRScheduler) and not waits_for_metric(schedule):
        rate: Any = schedule.get_last_lr()[0]
    else:
        rate = optimizer.param_groups[0]["lr"]
    return rate.item() if isinstance(rate, torch.Tensor) else rate
