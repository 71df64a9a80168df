"""Which backend a run gets, and the Accelerator under it."""

from __future__ import annotations

import os
from datetime import timedelta

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)
from torch import nn
from transformers import PreTrainedModel

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.backends.base import Backend
from raytrainer.backends.data_parallel import DataParallelBackend
from raytrainer.backends.deepspeed import ZeroBackend, forget_earlier
from raytrainer.backends.fsdp2 import FullyShardedBackend


def forget_earlier_backend(args: TrainingArguments) -> None:
    """Before a model is loaded: undo what the backend of an earlier trainer left in this process."""
    forget_earlier(args)


def open_backend(args: TrainingArguments, model: nn.Module | None) -> Backend:
    """All ranks: build the backend that resolved arguments ask for, on the process group that exists.

    Args:
        args: Resolved arguments.
        model: The user's model; decides about unused parameters under DDP.
    """
    # Accelerate's state is one per process; a second trainer in this process may want another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    if args.sharding is not None:
        return FullyShardedBackend(_plain_accelerator(args, args.mixed_precision), args.sharding)
    if args.zero is not None:
        # The engine computes in the precision that is asked for, and scales the loss of fp16 itself.
        return ZeroBackend(_plain_accelerator(args, "no"), args.zero, args)
    ddp = DistributedDataParallelKwargs(find_unused_parameters=_finds_unused(args, model))
    for name in ("bucket_cap_mb", "broadcast_buffers", "static_graph"):
        value = getattr(args, f"ddp_{name}")
        if value is not None:
            setattr(ddp, name, value)
    accelerator = Accelerator(
        cpu=args.device.type == "cpu",
        mixed_precision=args.mixed_precision,
        # The loop accumulates itself; Accelerate must not divide a second time.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[ddp, InitProcessGroupKwargs(timeout=timedelta(seconds=args.ddp_timeout))],
    )
    return DataParallelBackend(accelerator)


def _plain_accelerator(args: TrainingArguments, mixed_precision: str) -> Accelerator:
    # Sharding is done here. Where `accelerate launch` asks for it, Accelerate would insist on a GPU, or do it again.
    asked = {
        name: os.environ.pop(name)
        for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
        if name in os.environ
    }
    try:
        return Accelerator(
            cpu=args.device.type == "cpu",
            mixed_precision=mixed_precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=args.ddp_timeout))],
        )
    finally:
        os.environ.update(asked)


def _finds_unused(args: TrainingArguments, model: nn.Module | None) -> bool:
    if args.ddp_find_unused_parameters is not None:
        return args.ddp_find_unused_parameters
    if isinstance(model, PreTrainedModel):
        # Searching for unused parameters and activation checkpointing exclude each other in DDP.
        return not (model.is_activation_checkpointing or args.activation_checkpointing)
    return True
