"""The trainer as the loop sees it: the hooks that it calls and the public attributes that it keeps.

The loop never imports the trainer; it is handed the user's own subclass, whose overridden hooks it calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn
from transformers import TrainerControl, TrainerState

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.loop.loss import LossScaling


class LoopTrainer(Protocol):
    """The hooks and attributes that the loop uses."""

    args: TrainingArguments
    state: TrainerState
    control: TrainerControl
    callback_handler: Any
    optimizer: Any
    lr_scheduler: Any
    accelerator: Any
    processing_class: Any
    compute_metrics: Any
    compute_loss_func: Any
    label_smoother: Any
    label_names: list[str]
    can_return_loss: bool
    model_accepts_loss_kwargs: bool
    loss_is_scaled_for_ga: bool | None
    current_gradient_accumulation_steps: int
    current_flos: float
    is_in_train: bool
    _loss_shifts_labels: bool
    _loss_scaling: LossScaling | None
    model: nn.Module
    model_wrapped: nn.Module

    def get_train_dataloader(self) -> Any: ...

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None: ...

    def create_optimizer(self, model: nn.Module | None = None) -> Any: ...

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any: ...

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]: ...

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor: ...

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any: ...

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None: ...

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]: ...

    def num_examples(self, dataloader: Any) -> int: ...

    def store_flos(self) -> None: ...

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None: ...

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False
    ) -> dict[str, float]: ...

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool: ...

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None: ...

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None: ...

    def _task_state(self) -> dict[str, Any]: ...

    def _load_best_model(self) -> None: ...

    def _get_learning_rate(self) -> float: ...
