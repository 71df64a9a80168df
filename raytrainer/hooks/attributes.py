"""What the hooks read of the Trainer that they are part of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerControl, TrainerState

from raytrainer.arguments.training_arguments import TrainingArguments


class Attributes:
    """What the hooks read of the Trainer that they are part of."""

    args: TrainingArguments
    model: Any
    train_dataset: Any
    eval_dataset: Any
    processing_class: Any
    data_collator: Any
    compute_loss_func: Any
    optimizer: Any
    lr_scheduler: Any
    optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None
    callback_handler: Any
    state: TrainerState
    control: TrainerControl
    accelerator: Any
    is_in_train: bool
    current_gradient_accumulation_steps: int
    label_names: list[str]
    label_smoother: Any
    can_return_loss: bool
    model_accepts_loss_kwargs: bool
    _runtime: Any
    _hub: Any
    _backend: Any
    _run: Any
    _loss_scaling: Any
    _loss_shifts_labels: bool
    _smoother_shifts: bool
    _eval_loaders: dict[str, Any]
    _is_fill_up: bool = False
    """The batch that is predicted on has no sample that counts on this rank."""
    _prepare_inputs: Callable[[Any], Any]
    _compute_loss_takes_count: Any
    compute_loss_context_manager: Callable[[], Any]
    compute_loss: Callable[..., Any]
    evaluate: Callable[..., dict[str, float]]
