"""A small run whose workers can be killed at a chosen moment, once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import safetensors.torch
import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from raytrainer import Trainer, TrainingArguments
from raytrainer.checkpoint import commit
from raytrainer.checkpoint.background.pending import PendingSave


def die_once(marker: Path) -> None:
    """SIGKILL this process, unless a process was already killed at this marker."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def own_raylet_pid() -> int:
    """On a worker: its raylet, which is not the parent of a worker that was forked."""
    return int(os.environ["RAY_RAYLET_PID"])


class KillAtStep(TrainerCallback):
    """Kills one rank at the end of one step."""

    def __init__(self, step: int, rank: int, marker: str) -> None:
        self.step, self.rank, self.marker = step, rank, marker

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and args.process_index == self.rank:
            die_once(Path(self.marker))


def helper_pids(name: str, raylet: psutil.Process) -> set[int]:
    """The processes of actors that are no workers, by the beginning of their class's name."""
    found = set()
    for process in raylet.children():
        with contextlib.suppress(psutil.Error):  # It has just ended.
            title = process.cmdline()
            if title and title[0].startswith(f"ray::{name}"):
                found.add(process.pid)
    return found


def helper_pid(name: str, raylet: psutil.Process) -> int:
    """The newest of them; those of groups that have just ended may still be there."""
    return max(helper_pids(name, raylet), key=lambda pid: psutil.Process(pid).create_time())


class KillHelper(TrainerCallback):
    """Kills a helper process of the group at the end of one step, once, and waits for its end.

    Args:
        step: The step.
        name: Of the helper's class, from its beginning.
        marker: Names the death.
    """

    def __init__(self, step: int, name: str, marker: str) -> None:
        self.step, self.name, self.marker = step, name, marker

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step != self.step or args.process_index != 0 or os.path.exists(self.marker):
            return
        raylet = psutil.Process(own_raylet_pid())
        Path(self.marker).touch()
        os.kill(helper_pid(self.name, raylet), signal.SIGKILL)


class CountShards(TrainerCallback):
    """Records how many parameters were sharded when the run ended."""

    num_shards = -1

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.num_shards = sum(
            isinstance(parameter, DTensor) or hasattr(parameter, "ds_tensor")
            for parameter in kwargs["model"].parameters()
        )


class KillInSave(TrainerCallback):
    """Kills rank 0 while it writes one checkpoint.

    Args:
        step: Of the checkpoint.
        moment: ``first_file``, ``before_manifest`` or ``after_manifest``.
        marker: Names the death.
    """

    def __init__(self, step: int, moment: str, marker: str) -> None:
        self.step, self.moment, self.marker = step, moment, marker

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.process_index != 0:
            return
        if self.moment == "first_file" and (args.fsdp or args.deepspeed):
            self.around(safetensors.torch, "save_file", before=False)
        elif self.moment == "first_file":
            self.around(kwargs["model"], "save_pretrained", before=False)
        else:
            self.around(commit, "write_synced", before=self.moment == "before_manifest")

    def around(self, owner: Any, name: str, *, before: bool) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            is_it = any(f"checkpoint-{self.step}." in str(value) for value in args[:2])
            if is_it and before:
                die_once(Path(self.marker))
            result = original(*args, **kwargs)
            if is_it and not before:
                die_once(Path(self.marker))
            return result

        setattr(owner, name, wrapped)


class KillBeforeCommit(TrainerCallback):
    """Kills a rank whose save is being written beside training.

    Args:
        step: Of the checkpoint.
        rank: Who dies.
        is_written: When rank 0's process commits; otherwise before that, when the files of all ranks are written.
        marker: Names the death.
    """

    def __init__(self, step: int, rank: int, marker: str, *, is_written: bool) -> None:
        self.step, self.rank, self.marker, self.is_written = step, rank, marker, is_written

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.process_index != self.rank:
            return
        original = PendingSave.go_on

        def go_on(save: PendingSave) -> Any:
            if save.step == self.step and save.is_written == self.is_written:
                die_once(Path(self.marker))
            return original(save)

        PendingSave.go_on = go_on


def make_samples() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(44):
        tokens = torch.randint(0, 64, (12,), generator=generator)
        labels = tokens.clone()
        labels[int(torch.randint(4, 12, (1,), generator=generator)) :] = -100
        samples.append({"input_ids": tokens, "labels": labels})
    return samples


class Augmented(Dataset[dict[str, torch.Tensor]]):
    """Replaces tokens at random, with numbers of torch, numpy and Python."""

    def __init__(self) -> None:
        self.samples = make_samples()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = self.samples[index]
        kept = torch.rand(12) < 0.8
        added = int(np.random.randint(32)) + random.randrange(32)
        return {**sample, "input_ids": torch.where(kept, sample["input_ids"], added)}


def collate_with_dropped_labels(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A collator that draws."""
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    batch["labels"][torch.rand(batch["labels"].shape) < 0.2] = -100
    return batch


def augmented(trainer: Trainer) -> Trainer:
    """The trainer, with samples and micro-batches that draw at random."""
    trainer.train_dataset = Augmented()
    trainer.data_collator = collate_with_dropped_labels
    return trainer


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        attention_dropout=0.2,
    )
    return LlamaForCausalLM(config)


def make_trainer(directory: Path, *callbacks: TrainerCallback, **changes: Any) -> Trainer:
    """Two workers, two epochs of six steps with dropout and accumulation, a checkpoint at every second step."""
    options: dict[str, Any] = {
        "output_dir": str(directory),
        "num_workers": 2,
        "use_cpu": True,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "logging_steps": 1,
        "save_steps": 2,
        "eval_strategy": "epoch",
        "disable_tqdm": True,
        **changes,
    }
    return Trainer(
        model=make_model(),
        args=TrainingArguments(**options),
        train_dataset=make_samples(),
        eval_dataset=make_samples()[:9],
        callbacks=list(callbacks),
    )


def outcome(
    trainer: Trainer,
) -> tuple[dict[str, torch.Tensor], list[tuple[int, float]], list[tuple[int, float]]]:
    """Final weights, and logged training and evaluation losses by step."""
    logs = trainer.state.log_history
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses = [(log["step"], log["loss"]) for log in logs if "loss" in log]
    evaluations = [(log["step"], log["eval_loss"]) for log in logs if "eval_loss" in log]
    return weights, losses, evaluations
