"""Which micro-batch size fits into memory, for ``auto_find_batch_size``: attempts of one ``train()`` call.

The arguments hold the sizes of an attempt while it lasts, and those of the user afterwards.
"""

from __future__ import annotations

import copy
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import TrainOutput

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.callbacks.saved_states import export_states, restore_states
from raytrainer.checkpoint.rng import load_rng, save_rng
from raytrainer.checkpoint.state_files import load_trainer_state
from raytrainer.errors import ConfigurationError
from raytrainer.loop.micro_batch_sizes import MicroBatchSizes
from raytrainer.loop.notes import tell
from raytrainer.loop.out_of_memory import OutOfMemory
from raytrainer.runtimes.base import Runtime
from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.worker.setup import build_model


def search_batch_size(
    trainer: TrainerProtocol, runtime: Runtime, attempt: Callable[[MicroBatchSizes, bool], TrainOutput]
) -> TrainOutput:
    """All ranks: train, with smaller micro-batches after each attempt that does not fit into memory.

    Args:
        trainer: With its model.
        runtime: Where this rank runs.
        attempt: Trains from the beginning, or from this run's last checkpoint. Its arguments are the sizes that were
            requested, and whether an attempt came before.

    Raises:
        ConfigurationError: If not even one sample fits.
    """
    args = trainer.args
    requested = sizes_of(args)
    start = StartState(trainer, runtime)
    is_again = False
    try:
        while True:
            try:
                return attempt(requested, is_again)
            except OutOfMemory:
                step = trainer.state.global_step + 1
            # Outside the handler, which kept the objects of the attempt alive.
            tried = sizes_of(args)
            smaller = tried.smaller()
            if smaller is None:
                raise ConfigurationError(
                    f"A micro-batch of one sample does not fit into the memory of a worker (step {step}). Use a "
                    "smaller model, shorter samples, activation_checkpointing=True, bf16=True, or fsdp=True."
                )
            report_smaller(runtime, tried, smaller, step)
            set_sizes(args, smaller)
            start.restore(trainer, runtime)
            is_again = True
    finally:
        set_sizes(args, requested)


def report_smaller(runtime: Runtime, tried: MicroBatchSizes, smaller: MicroBatchSizes, step: int) -> None:
    """Report which sizes did not fit and which come next.

    Args:
        runtime: Where this rank runs.
        tried: Sizes that did not fit.
        smaller: Sizes of the next attempt.
        step: The step that ran out of memory.
    """
    text = (
        f"Out of memory in step {step} with {tried.per_device} x {tried.accumulation} samples a step on each worker; "
        f"going on with {smaller.per_device} x {smaller.accumulation}, which is the same global batch."
    )
    tell(runtime, text)


def sizes_of(args: TrainingArguments) -> MicroBatchSizes:
    """The sizes that the arguments hold."""
    return MicroBatchSizes(
        per_device=args.per_device_train_batch_size, accumulation=args.gradient_accumulation_steps
    )


def set_sizes(args: TrainingArguments, sizes: MicroBatchSizes) -> None:
    """Write sizes into the arguments."""
    args.per_device_train_batch_size = sizes.per_device
    args.gradient_accumulation_steps = sizes.accumulation


def apply_saved_sizes(args: TrainingArguments, checkpoint: Path | None) -> None:
    """Begin with the sizes that fitted when a checkpoint was saved, instead of searching again."""
    if checkpoint is None:
        return
    saved, now = load_trainer_state(checkpoint).train_batch_size, sizes_of(args)
    if saved and saved < now.per_device and now.per_device % saved == 0:
        factor = now.per_device // saved
        set_sizes(args, MicroBatchSizes(per_device=saved, accumulation=now.accumulation * factor))


class StartState:
    """The state that a run begins from, kept on the CPU, so that it can begin again."""

    def __init__(self, trainer: TrainerProtocol, runtime: Runtime) -> None:
        self._weights = None
        if trainer.model_init is None:
            state = trainer.model.state_dict()
            self._weights = {name: value.detach().cpu().clone() for name, value in state.items()}
        self._optimizer = state_of(trainer.optimizer)
        self._scheduler = state_of(trainer.lr_scheduler)
        self._callbacks = export_states(trainer.callback_handler.callbacks, trainer.control)
        self._directory = tempfile.TemporaryDirectory(prefix="raytrainer-start-")
        save_rng(self._directory.name, rank=runtime.rank, world_size=runtime.world_size)

    def restore(self, trainer: TrainerProtocol, runtime: Runtime) -> None:
        """All ranks: put the trainer back to where it began."""
        trainer.model.zero_grad(set_to_none=True)
        if self._weights is None:
            build_model(trainer)
        else:
            trainer.model.load_state_dict(self._weights)
        if self._optimizer is None:
            trainer.optimizer = None
        else:
            trainer.optimizer.load_state_dict(copy.deepcopy(self._optimizer))
        if self._scheduler is None:
            trainer.lr_scheduler = None
        else:
            trainer.lr_scheduler.load_state_dict(copy.deepcopy(self._scheduler))
        trainer.control = restore_states(trainer.callback_handler, trainer.control, self._callbacks)
        trainer.current_flos = 0.0
        load_rng(self._directory.name, rank=runtime.rank, world_size=runtime.world_size)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def state_of(part: Any) -> Any:
    """A copy of the state of an optimizer or a schedule; None if there is none yet."""
    return None if part is None else copy.deepcopy(part.state_dict())
