"""Trainers with users' code: a custom loss, a stream, and a callback and an attribute with state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

import raytrainer
from tests.parity.twins import make_model, make_samples

GLOBAL_BATCH = 8


class Stream(IterableDataset):  # type: ignore[type-arg]
    """The same samples, one after the other, without a length."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        yield from make_samples()


class OwnLoss(raytrainer.Trainer):
    """Sums the losses of the target items, and divides by their number in the whole step."""

    num_calls = 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.num_calls += 1
        labels = inputs["labels"]
        outputs = model(input_ids=inputs["input_ids"])
        logits = outputs.logits[:, :-1].flatten(0, 1)
        total = torch.nn.functional.cross_entropy(
            logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )
        count = num_items_in_batch if num_items_in_batch is not None else (labels[:, 1:] != -100).sum()
        loss = total / count
        return (loss, outputs) if return_outputs else loss


class Counter(TrainerCallback):
    """Counts steps, and records the number of processes and whether they are deterministic."""

    def __init__(self) -> None:
        self.num_steps = 0
        self.world_sizes: list[int] = []
        self.is_deterministic = False
        self.had_variables_at_first = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.num_steps += 1
        self.world_sizes.append(args.world_size)
        self.is_deterministic = torch.are_deterministic_algorithms_enabled()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """On a worker: before the trainer is set up, and so before a kernel runs."""
        vars(self).update(state)
        if os.environ.get("RAY_RAYLET_PID"):
            self.had_variables_at_first = os.environ.get("CUBLAS_WORKSPACE_CONFIG") == ":16:8"


KINDS: dict[str, type[raytrainer.Trainer]] = {
    "plain": raytrainer.Trainer,
    "own_loss": OwnLoss,
    "stream": raytrainer.Trainer,
}


def make_trainer(kind: str, directory: Path, num_workers: int) -> raytrainer.Trainer:
    """The same global batch on any number of ranks; no dropout, whose random draws differ between ranks."""
    num_ranks = max(1, num_workers)
    args = raytrainer.TrainingArguments(
        output_dir=str(directory),
        num_workers=num_workers,
        per_device_train_batch_size=GLOBAL_BATCH // num_ranks,
        gradient_accumulation_steps=2,
        max_steps=3,
        learning_rate=1e-2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        # It stays on in a process.
        debug="startup" if kind == "plain" and num_workers > 0 else "",
        full_determinism=kind == "stream" and num_workers > 0,
    )
    return KINDS[kind](
        model=make_model(dropout=0.0),
        args=args,
        train_dataset=Stream() if kind == "stream" else make_samples(),
        eval_dataset=make_samples(10),
        callbacks=[Counter()],
    )


def numbers(trainer: raytrainer.Trainer) -> list[list[float]]:
    """Step, loss and gradient norm of each logged step, and the evaluation loss."""
    logs = trainer.state.log_history
    steps = [[log["step"], log["loss"], log["grad_norm"]] for log in logs if "loss" in log]
    return [*steps, *([log["step"], log["eval_loss"]] for log in logs if "eval_loss" in log)]
