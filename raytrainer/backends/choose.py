"""Which backend a run gets, and the Accelerator under it: the one file that knows every backend by name."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)

from raytrainer.arguments.accelerator_config import loader_configuration
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.backends.base import Backend
from raytrainer.backends.data_parallel import DataParallelBackend
from raytrainer.backends.fsdp2 import FullyShardedBackend
from raytrainer.backends.sharding_units import check_sharding
from raytrainer.backends.zero import ZeroBackend, check_model, forget_earlier
from raytrainer.backends.zero.config_sections import build_configured_optimizer, build_configured_schedule
from raytrainer.dialects.accelerate_sharding import SHARDING_KINDS


def forget_earlier_backend(args: TrainingArguments) -> None:
    """Before a model is loaded: undo what the backend of an earlier trainer left in this process."""
    forget_earlier(args)


def open_backend(args: TrainingArguments) -> Backend:
    """All ranks: build the backend that resolved arguments ask for, on the process group that exists."""
    # Accelerate's state is one per process; a second trainer in this process may want another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    if args.sharding is not None:
        return FullyShardedBackend(_plain_accelerator(args, args.mixed_precision), args.sharding)
    if args.zero is not None:
        # The engine computes in the precision that is asked for, and scales the loss of fp16 itself.
        return ZeroBackend(_plain_accelerator(args, "no"), args.zero, args)
    ddp = DistributedDataParallelKwargs()
    options = {
        "bucket_cap_mb": args.ddp_bucket_cap_mb,
        "broadcast_buffers": args.ddp_broadcast_buffers,
        "static_graph": args.ddp_static_graph,
    }
    for name, value in options.items():
        if value is not None:
            setattr(ddp, name, value)
    accelerator = Accelerator(
        cpu=args.device.type == "cpu",
        mixed_precision=args.mixed_precision,
        dataloader_config=loader_configuration(args),
        # The loop accumulates itself; Accelerate must not divide a second time.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[ddp, InitProcessGroupKwargs(timeout=timedelta(seconds=args.ddp_timeout))],
    )
    return DataParallelBackend(accelerator, finds_unused=args.ddp_find_unused_parameters)


def sharding_backend(args: TrainingArguments) -> str | None:
    """The name of the backend that arguments ask for, if it shards the model."""
    if args.sharding is not None:
        return FullyShardedBackend.name
    return f"zero{args.zero.stage}" if args.zero is not None else None


def check_before_workers(args: TrainingArguments, model: Any, *, has_optimizer: bool) -> None:
    """Check, as far as a driver can know, that the backend is installed and can shard the model.

    Args:
        args: The arguments, resolved or not.
        model: The user's model; its name, or None, if it is made on the workers.
        has_optimizer: The user passed an optimizer instance.

    Raises:
        ConfigurationError: If it is not, or cannot.
    """
    if args.zero is not None:
        check_model(args.zero, model)
    if args.sharding is not None:
        check_sharding(args, args.sharding, model, has_optimizer=has_optimizer)


def names_optimizer(args: TrainingArguments) -> bool:
    """Whether the backend's own configuration names an optimizer, in place of ``optim``."""
    return args.zero is not None and args.zero.optimizer is not None


def drops_empty_groups(args: TrainingArguments) -> bool:
    """Whether the backend removes parameter groups without parameters from an optimizer that it is given."""
    return args.zero is not None


def configured_optimizer(
    args: TrainingArguments, groups: list[dict[str, Any]]
) -> torch.optim.Optimizer | None:
    """Build the optimizer that the backend's own configuration names; None if it names none.

    Raises:
        ConfigurationError: If it cannot be built.
    """
    if args.zero is None or args.zero.optimizer is None:
        return None
    return build_configured_optimizer(args.zero, args, groups)


def configured_schedule(args: TrainingArguments, optimizer: torch.optim.Optimizer, max_steps: int) -> Any:
    """Build the schedule that the backend's own configuration names; None if it names none.

    Args:
        args: Resolved arguments.
        optimizer: The optimizer whose learning rate is scheduled.
        max_steps: Optimizer steps of the whole run.

    Raises:
        ConfigurationError: If it cannot be built.
    """
    if args.zero is None or args.zero.scheduler is None:
        return None
    return build_configured_schedule(args.zero, args, optimizer, max_steps)


def _plain_accelerator(args: TrainingArguments, mixed_precision: str) -> Accelerator:
    # Sharding is done here. Where `accelerate launch` asks for it, Accelerate would insist on a GPU, or do it again.
    asked = {
        name: os.environ.pop(name)
        for name in (kind.variable for kind in SHARDING_KINDS.values())
        if name in os.environ
    }
    try:
        return Accelerator(
            cpu=args.device.type == "cpu",
            mixed_precision=mixed_precision,
            dataloader_config=loader_configuration(args),
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=args.ddp_timeout))],
        )
    finally:
        os.environ.update(asked)
