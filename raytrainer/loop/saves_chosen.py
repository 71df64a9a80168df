"""Whether the saves of a run are written beside training or in the loop.

``async_save=True`` and ``False`` say so. Otherwise they are written beside training where nobody could expect the
checkpoint to be there when a save returns, and where it pays: what is small is written before a process could start.
Whatever was asked for, a copy that the host has no room for is not made: the kernel, or Ray, would end a worker. Nor is
a bucket written that the process beside a rank does not see as the rank does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import torch
from transformers.trainer_utils import SaveStrategy

from raytrainer.checkpoint.background import WRITES_CHECKPOINTS
from raytrainer.checkpoint.background.room import free_memory
from raytrainer.checkpoint.background.writer import BackgroundWriter
from raytrainer.checkpoint.run_storage import storage_of
from raytrainer.loop.notes import tell
from raytrainer.loop.run import TrainRun
from raytrainer.storage.locations import is_uri, without_options
from raytrainer.trainer_protocol import TrainerProtocol

LEAST = 64 << 20
"""What a rank saves at least where its saves are written beside training by default [bytes]."""


def may_save_beside(trainer: TrainerProtocol) -> bool:
    """All ranks, before training: whether saves are written beside it if they are large enough and there is room."""
    args = trainer.args
    if args.async_save is not None or args.save_strategy == SaveStrategy.NO:
        return bool(args.async_save) and args.save_strategy != SaveStrategy.NO
    return (
        hasattr(os, "memfd_create")
        and trainer._trial is None  # a sweep decides with the checkpoint at hand
        and not trainer._overrides() & WRITES_CHECKPOINTS
        and args.device.type == "cpu"  # on GPUs it has not been run long enough to be what nobody asked for
    )


def saves_are_beside(run: TrainRun, writer: BackgroundWriter) -> bool:
    """All ranks, at the first save of a run: whether it and those that follow are written beside training."""
    args, runtime = run.args, run.runtime
    needed = size_of_copy(run)
    copies = runtime.local_world_size if args.sharded_by is not None else 1
    lacks_room = needed * copies > free_memory()
    flags = [int(needed >= LEAST or bool(args.async_save)), int(lacks_room)]
    pays, is_short = runtime.agree(flags) if runtime.world_size > 1 else flags
    if pays and is_short and runtime.rank == 0:
        tell(
            runtime,
            f"Saves are written in the loop, because the {needed * copies / 1e9:,.1f} GB of host memory that a copy of "
            "the state takes are not free on every machine. Training waits for each save. Give the workers more "
            "memory, or set async_save=False.",
        )
    return bool(pays and not is_short) and _are_seen(run, writer)


def _are_seen(run: TrainRun, writer: BackgroundWriter) -> bool:
    """All ranks: whether the process beside each of them can write where the run is kept."""
    runtime, trainer = run.runtime, run.trainer
    storage = storage_of(trainer._get_output_dir(trainer._trial))
    reason = storage.why_not_beside(writer)
    is_unseen = int(reason is not None)
    if runtime.world_size > 1 and is_uri(storage.location):
        (is_unseen,) = runtime.agree([is_unseen])
    if is_unseen and run.args.async_save and (reason is not None or runtime.rank == 0):
        tell(
            runtime,
            "Saves are written in the loop, because the process that would write them beside training does not see "
            f"{without_options(storage.location)} as the worker does ({reason or 'on another rank'}). It is another "
            "process: file systems that code registers in a worker, or that are in its memory, are not there. Set "
            "async_save=False to be told no more.",
        )
    return not is_unseen


def saves_are_ahead(run: TrainRun) -> bool:
    """All ranks: whether a save is planned that steps will follow; one at the end is waited for in any case."""
    state, strategy = run.trainer.state, run.args.save_strategy
    if strategy != SaveStrategy.STEPS:
        return True
    every = int(state.save_steps) or state.max_steps
    return (state.global_step // every + 1) * every < state.max_steps


def size_of_copy(run: TrainRun) -> int:
    """About what this rank copies in a save [bytes]."""
    is_writer = run.runtime.rank == 0 or run.args.sharded_by is not None
    return size_of_state(run.trainer) if is_writer else 0


def size_of_state(trainer: TrainerProtocol) -> int:
    """About what this rank saves: what is trained, and the state of its optimizer [bytes]."""
    optimizer: Any = trainer.optimizer
    optimizer = getattr(optimizer, "optimizer", optimizer)  # DeepSpeed's, and accelerate's, hold one
    state = {} if trainer.args.save_only_model else getattr(optimizer, "state", {})
    tensors = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    return sum(map(_local_bytes, tensors)) + sum(map(_local_bytes, _tensors_in(state)))


def _tensors_in(state: Any) -> Iterator[torch.Tensor]:
    per_parameter: list[Any] = list(state.values())
    for values in per_parameter:
        if isinstance(values, dict):
            for value in cast("dict[str, object]", values).values():
                if isinstance(value, torch.Tensor):
                    yield value


def _local_bytes(tensor: torch.Tensor) -> int:
    local = getattr(tensor, "_local_tensor", tensor)
    return local.numel() * local.element_size()
