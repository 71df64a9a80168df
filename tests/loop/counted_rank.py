"""Trains under torchrun with targets counted ahead, and not; writes losses and messages of each rank as JSON.

Usage: counted_rank.py TARGET
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainerCallback

from raytrainer import Trainer, TrainingArguments
from raytrainer.loop import run_setup

EPOCHS = 2


class Divides(nn.Module):
    """Its loss is divided by the targets of the step."""

    accepts_loss_kwargs = True

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor, num_items_in_batch: Any = None) -> Any:
        is_real = labels.ne(-100)
        errors = (self.layer(x.unsqueeze(-1)).squeeze(-1) - labels).pow(2) * is_real
        return {"loss": errors.sum() / (is_real.sum() if num_items_in_batch is None else num_items_in_batch)}


class CountsItself(Trainer):
    """Counts by a method of its own."""

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        return super()._get_num_items_in_batch(batch_samples, device)


class Messages(TrainerCallback):
    """How many sums over ranks each step took."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.count = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(self.count)
        self.count = 0


def train(kind: type[Trainer], **options: Any) -> dict[str, Any]:
    """Train, and say with what losses, and messages from one end of a step to the next."""
    args = TrainingArguments(
        output_dir=str(Path(sys.argv[1]).parent / "run"),
        num_train_epochs=EPOCHS,
        learning_rate=0.1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        logging_steps=1,
        **{"per_device_train_batch_size": 2, **options},
    )
    labels = [[1 if place <= index % 5 else -100 for place in range(6)] for index in range(19)]
    data = [{"x": torch.arange(6.0) / 6, "labels": torch.tensor(one)} for one in labels]
    messages, reduce = Messages(), dist.all_reduce

    def counted(*given: Any, **named: Any) -> Any:
        messages.count += 1
        return reduce(*given, **named)

    torch.manual_seed(0)
    trainer = kind(model=Divides(), args=args, train_dataset=data, callbacks=[messages])
    dist.all_reduce = counted
    try:
        trainer.train()
    finally:
        dist.all_reduce = reduce
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    weights = [one.tolist() for one in trainer.model.parameters()]
    return {"losses": losses, "weights": weights, "messages": messages.steps}


def main() -> None:
    """Train in all ways."""
    ways: dict[str, dict[str, Any]] = {
        "one": {},
        "two": {"gradient_accumulation_steps": 2},
        "uneven": {"accelerator_config": {"even_batches": False}},
    }
    found = {name: train(Trainer, **options) for name, options in ways.items()}
    found["own"] = train(CountsItself)
    run_setup.can_count_ahead = lambda run: False  # type: ignore[assignment]
    found |= {f"{name}, not ahead": train(Trainer, **options) for name, options in ways.items()}
    gathered: list[Any] = [None, None]
    dist.all_gather_object(gathered, found)
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(gathered))


main()
