"""The learning-rate schedule, and which schedules wait for an evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers.optimization import GreedyLR, get_scheduler

from raytrainer.arguments.training_arguments import TrainingArguments


def build_schedule(args: TrainingArguments, optimizer: torch.optim.Optimizer, max_steps: int) -> LRScheduler:
    """Build the schedule that the arguments name.

    Args:
        args: Says which, and how long it warms up.
        optimizer: The raw optimizer, not a wrapped one; wrapped optimizers would step the schedule per process.
        max_steps: Optimizer steps of the whole run.
    """
    return get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(max_steps),
        num_training_steps=max_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,  # pyright: ignore[reportArgumentType]
    )


def waits_for_metric(schedule: Any) -> bool:
    """Whether the schedule steps on an evaluation's metric instead of on every optimizer step."""
    return isinstance(schedule, ReduceLROnPlateau | GreedyLR)


def current_learning_rate(schedule: Any, optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of the first parameter group that the next optimizer step uses."""
    # Schedules that are not torch's do not always know their last rate, for instance after a resume.
    knows = isinstance(schedule, LRScheduler) and not waits_for_metric(schedule)
    rate = schedule.get_last_lr()[0] if knows else optimizer.param_groups[0]["lr"]
    return rate.item() if torch.is_tensor(rate) else rate
