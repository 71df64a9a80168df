"""Trains elastic runs in turn on the ranks of a launcher; rank 0 writes what they gave as JSON.

Usage: elastic_rank.py DIRECTORY TARGET
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
import transformers
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset, IterableDataset

import raytrainer
from raytrainer.loop import sample_ledger
from tests.data.cutting import classifier, for_classes
from tests.parity.twins import make_model
from tests.sft.runs import logged
from tests.sft.words import make_trainer, texts

MOST = 3
COUNT = 29
"""With micro-batches of 2 for each of 3 workers: 5 rounds, the last one not full, so 3 steps of up to 2 rounds."""
STEPS = 6
SAVED = 2


def augmented(index: int) -> dict[str, Any]:
    """A sample of which some tokens are drawn anew each time it is read."""
    tokens = torch.arange(4 + index % 5) * 3 + index
    drawn = torch.rand(tokens.shape) < 0.3
    added = int(np.random.randint(40)) + random.randrange(40)
    tokens = torch.where(drawn, tokens + added, tokens) % 100
    return {"input_ids": tokens.tolist(), "labels": index % 4}


class Augmented(Dataset[dict[str, Any]]):
    draws = True

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.draws:
            return augmented(index)
        return {
            "input_ids": [(place * 3 + index) % 100 for place in range(4 + index % 5)],
            "labels": index % 4,
        }


class Still(Augmented):
    draws = False


class Stream(IterableDataset[dict[str, Any]]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(COUNT):
            yield augmented(index)


def masked(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Language modelling on labels of which some are left out at random."""
    batch = for_classes(samples)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[torch.rand(labels.shape) < 0.1] = -100
    return {**batch, "labels": labels}


FSDP = {"fsdp": "full_shard"}
RUNS: dict[str, dict[str, Any]] = {
    "ddp": {"save_strategy": "steps"},
    "ddp without dropout": {"dropout": 0.0},
    "ddp without noise": {"neftune_noise_alpha": None},
    "ddp without augmentation": {"dataset": Still},
    "ledger": {"debug": "sample_ledger", "save_strategy": "steps"},
    "fsdp": {**FSDP, "save_strategy": "steps"},
    "loading processes": {"dataloader_num_workers": 1},
    "classes": {"classifies": True, "accelerator_config": {"even_batches": False}},
    "stream": {"dataset": Stream, "save_strategy": "steps"},
    "stream that is not filled up": {"dataset": Stream, "accelerator_config": {"even_batches": False}},
    "ddp resumed": {"resumes": "ddp"},
    "fsdp resumed": {**FSDP, "resumes": "fsdp"},
    "fsdp resumed from ddp": {**FSDP, "resumes": "ddp"},
    "stream resumed": {"dataset": Stream, "resumes": "stream"},
}
"""Resumed runs begin from a checkpoint of the number of ranks that was tried before."""
ORDER = (3, 1, 2)
FINE_TUNED = "fine-tuned"
LEDGER = "ledger"
"""On each number of ranks it goes on from the same checkpoint, in the same directory."""


class Seen(transformers.TrainerCallback):
    """What is engaged, and how many micro-batches this rank computes."""

    def __init__(self) -> None:
        self.dtensors = 0
        self.micro_batches = 0

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.micro_batches += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.micro_batches += 1
        self.dtensors = sum(isinstance(one, DTensor) for one in kwargs["model"].parameters())


def run(name: str, directory: Path) -> dict[str, Any]:
    """Train one run, and return what this rank saw."""
    options = dict(RUNS[name])
    world_size = int(os.environ["WORLD_SIZE"])
    classifies, resumes = options.pop("classifies", False), options.pop("resumes", None)
    dropout, dataset = options.pop("dropout", 0.1), options.pop("dataset", Augmented)()
    model = classifier(dropout, vocabulary=100) if classifies else make_model(dropout=dropout)
    seen = Seen()
    args = raytrainer.TrainingArguments(
        **{
            "output_dir": str(directory / (name if name == LEDGER else f"{name} on {world_size}")),
            "num_workers": (1, MOST),
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_steps": STEPS,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "cosine",
            "logging_steps": 1,
            "save_strategy": "no",
            "save_steps": SAVED,
            "neftune_noise_alpha": 0.3,
            "include_num_input_tokens_seen": "all",
            "remove_unused_columns": False,
            "use_cpu": True,
            "disable_tqdm": True,
            **options,
        }
    )
    torch.manual_seed(
        dist.get_rank() if dist.is_initialized() else 0
    )  # nothing may come from how a rank began
    trainer = raytrainer.Trainer(
        model=model,
        args=args,
        train_dataset=dataset,
        data_collator=for_classes if classifies else masked,
        callbacks=[seen],
    )
    checkpoint = None
    if resumes is not None:
        before = ORDER[ORDER.index(world_size) - 1]
        checkpoint = str(directory / f"{resumes} on {before}" / f"checkpoint-{SAVED}")
    if name == LEDGER and world_size != ORDER[0]:
        checkpoint = str(directory / name / f"checkpoint-{SAVED}")
    with patch.object(sample_ledger, "tell", wraps=sample_ledger.tell) as tell:
        trainer.train(resume_from_checkpoint=checkpoint)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return {
        "said": [call.args[1] for call in tell.call_args_list],
        "world_size": trainer.args.world_size,
        "dtensors": seen.dtensors,
        "micro_batches": seen.micro_batches,
        "wrapper": type(trainer.model_wrapped).__name__,
        "losses": [log["loss"] for log in logs],
        "norms": [log["grad_norm"] for log in logs],
        "rates": [log["learning_rate"] for log in logs],
        "epochs": [log["epoch"] for log in logs],
        "tokens": trainer.state.num_input_tokens_seen,
        "flos": trainer.state.total_flos,
        "max_steps": trainer.state.max_steps,
    }


def fine_tune(directory: Path) -> list[list[float]]:
    """Train on texts; return losses, accuracies and numbers of tokens."""
    trainer = make_trainer(
        directory / f"fine-tuned on {os.environ['WORLD_SIZE']}",
        texts(COUNT),
        num_workers=(1, MOST),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=STEPS,
    )
    trainer.train()
    return logged(trainer)


def main() -> None:
    """All runs."""
    torch.set_num_threads(1)
    directory, world_size = Path(sys.argv[1]), int(os.environ["WORLD_SIZE"])
    results: dict[str, Any] = {}
    for name, options in RUNS.items():
        if "resumes" not in options or world_size != ORDER[0]:
            results[name] = run(name, directory)
    results[FINE_TUNED] = {"rows": fine_tune(directory)}
    if not dist.is_initialized() or dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(results))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
