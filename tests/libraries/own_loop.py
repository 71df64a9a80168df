"""Trainers of transformers that have their own loop or change the given one, and a small run of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput

NUM_STEPS = 8


class ZerothOrderTrainer(transformers.Trainer):
    """Steps along random directions, as far as two forward passes say, and never runs a backward pass."""

    def _inner_training_loop(
        self,
        batch_size: int | None = None,
        args: Any = None,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
        ignore_keys_for_eval: Any = None,
    ) -> TrainOutput:
        loader = self.get_train_dataloader()
        self.state.max_steps, self.state.save_steps, self.state.num_train_epochs = (
            args.max_steps,
            args.save_steps,
            1,
        )
        if resume_from_checkpoint is not None:
            self.state = TrainerState.load_from_json(
                os.path.join(resume_from_checkpoint, "trainer_state.json")
            )
        self.state.is_world_process_zero = self.is_world_process_zero()
        self.model.eval()
        self.control = self.callback_handler.on_train_begin(args, self.state, self.control)
        for step, inputs in enumerate(loader, start=1):
            if step <= self.state.global_step:
                continue
            loss = self.zeroth_order_step(inputs, step)
            self.state.global_step = step
            self.control = self.callback_handler.on_step_end(args, self.state, self.control)
            self.log({"loss": loss})
            if self.control.should_save:
                self._save_checkpoint(self.model, trial)
                self.control = self.callback_handler.on_save(args, self.state, self.control)
            if self.control.should_training_stop:
                break
        self.control = self.callback_handler.on_train_end(args, self.state, self.control)
        self.last_loss = loss
        return TrainOutput(self.state.global_step, loss, {"train_loss": loss})

    def zeroth_order_step(self, inputs: Any, step: int, *, epsilon: float = 1e-3) -> float:
        inputs = self._prepare_inputs(inputs)
        losses = []
        with torch.no_grad():
            for scale in (epsilon, -2 * epsilon):
                self.move(step, scale)
                losses.append(self.compute_loss(self.model, inputs))
            self.move(step, epsilon)
            both = torch.stack(losses)
            if dist.is_initialized():
                dist.all_reduce(both)
                both /= dist.get_world_size()
            self.move(step, -self.args.learning_rate * float(both[0] - both[1]) / (2 * epsilon))
        return float(both.mean())

    def move(self, step: int, scale: float) -> None:
        """Move all parameters along the direction of a step."""
        generator = torch.Generator().manual_seed(step)
        for parameter in self.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)

    def largest_weight(self) -> float:
        return max(float(parameter.abs().max()) for parameter in self.model.parameters())

    def accelerator_processes(self) -> int:
        return self.accelerator.num_processes

    def eval_batch_size(self) -> int:
        return self.args.per_device_eval_batch_size

    def fail(self, text: str) -> None:
        raise ValueError(text)


class PlainTrainer(transformers.Trainer):
    """The loop of transformers."""


class DieOnce(transformers.TrainerCallback):
    """SIGKILL for one rank at the end of one step, in the first attempt."""

    def __init__(self, marker: Path, *, rank: int, step: int) -> None:
        self.marker, self.rank, self.step = marker, rank, step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and args.process_index == self.rank and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def make_model() -> Any:
    torch.manual_seed(5)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            attention_dropout=0.1,
        )
    )


def samples(count: int = 40) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 32, (count, 8), generator=generator)
    return [{"input_ids": row, "labels": row} for row in tokens]


def make_arguments(directory: Path, **options: Any) -> Any:
    return transformers.TrainingArguments(
        **{
            "output_dir": str(directory),
            "use_cpu": True,
            "per_device_train_batch_size": 2,
            "max_steps": NUM_STEPS,
            "learning_rate": 0.05,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 2,
            "report_to": "none",
            "disable_tqdm": True,
            "seed": 3,
            **options,
        }
    )


def losses(trainer: Any) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]
