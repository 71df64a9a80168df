"""Which settings a run applies, against those that were requested: the table of a run, and an error if they differ.

Each row is read from the objects that train, not from the arguments that asked for them.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from raytrainer.arguments.accelerator_config import dispatches_batches, fills_up
from raytrainer.data.loader import RankDataLoader
from raytrainer.errors import EngagementError
from raytrainer.layout.tensor_layout import full_shape
from raytrainer.loop.micro_batch_sizes import MicroBatchSizes
from raytrainer.loop.run import TrainRun
from raytrainer.telemetry.events import EngagedRow
from raytrainer.telemetry.formatting import format_count
from raytrainer.worker.kernels import kernel_rows


def engaged_rows(run: TrainRun) -> list[EngagedRow]:
    """The rows of the table."""
    args, plan = run.args, run.plan
    requested_workers = args.max_workers or run.runtime.world_size
    rows = backend_rows(run, requested_workers)
    rows.append(optimizer_row(run))
    rows.append(
        EngagedRow(
            what="schedule",
            requested=str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
            engaged=f"{type(run.trainer.lr_scheduler).__name__}, {plan.max_steps} steps",
        )
    )
    now = MicroBatchSizes(per_device=args.train_batch_size, accumulation=args.gradient_accumulation_steps)
    asked = run.requested_sizes or now
    fitted = f", as {now.per_device} x {now.accumulation} x {requested_workers} to fit into memory"
    rows.append(
        EngagedRow(
            what="global batch",
            requested=f"{asked.per_device} x {asked.accumulation} x {requested_workers}",
            engaged=f"{plan.global_batch_size} samples a step{fitted if asked != now else ''}",
            ok=asked.per_device * asked.accumulation * requested_workers == plan.global_batch_size,
        )
    )
    rows += data_rows(run)
    if run.updates_in_backward:
        rows.append(
            EngagedRow(
                what="clipping",
                requested=f"max_grad_norm={args.max_grad_norm:g}",
                engaged="none: updates in backward",
            )
        )
    rows += kernel_rows(run.trainer.model, args)
    if run.noise is not None:
        rows.append(EngagedRow(what="NEFTune", requested="noise", engaged=run.noise.describe()))
    if args.async_save and run.saves_beside is not None:
        merges = args.async_save_overlap == "merge"
        rows.append(
            EngagedRow(
                what="saves",
                requested="async_save, merge" if merges else "async_save",
                engaged="beside training, those that meet merged" if merges else "beside training",
            )
        )
    threads = torch.get_num_threads()
    rows.append(EngagedRow(what="CPU threads", requested="per worker", engaged=str(threads)))
    return rows


def backend_rows(run: TrainRun, requested_workers: int) -> list[EngagedRow]:
    """How many workers there are, and how the model is on them; any allowed number of workers is right."""
    args, present = run.args, run.runtime.world_size
    if not args.is_elastic or not args.allows_workers(present):
        return run.backend.engaged(run.model, requested_workers)
    bounds = f"{args.min_workers} to {args.max_workers}"
    rows = run.backend.engaged(run.model, present)
    return [replace(row, requested=bounds) if row.what == "workers" else row for row in rows]


def data_rows(run: TrainRun) -> list[EngagedRow]:
    """How samples reach the ranks, unless each rank simply reads its part of filled-up rounds."""
    args, loader = run.args, run.loader
    if run.runtime.world_size == 1:
        return []
    if not isinstance(loader, RankDataLoader):
        asked = dispatches_batches(args) or not fills_up(args)
        return (
            [EngagedRow(what="batches", requested="data", engaged="the user's own loader")] if asked else []
        )
    rows: list[EngagedRow] = []
    if dispatches_batches(args) or loader.is_dispatched:
        rows.append(
            EngagedRow(
                what="batches",
                requested="dispatched" if dispatches_batches(args) else "read by each",
                engaged="rank 0 reads for all" if loader.is_dispatched else "each rank reads",
                ok=loader.is_dispatched == dispatches_batches(args),
            )
        )
    if not (fills_up(args) and loader.split.fills_up):
        rows.append(
            EngagedRow(
                what="last round",
                requested="filled up" if fills_up(args) else "uneven",
                engaged="filled up" if loader.split.fills_up else "each sample once",
                ok=loader.split.fills_up == fills_up(args),
            )
        )
    return rows


def optimizer_row(run: TrainRun) -> EngagedRow:
    """The optimizer, and the number of parameters that it steps."""
    trainer = run.trainer
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    groups = run.backend.optimizer_groups(trainer.optimizer)
    trained = sum(full_shape(parameter).numel() for group in groups for parameter in group)
    wanted = str(getattr(run.args.optim, "value", run.args.optim))
    is_fused = bool(optimizer.defaults.get("fused"))
    describe: Any = getattr(optimizer, "describe", None)
    name = f"{type(optimizer).__name__}{' (fused)' if is_fused else ''}" if describe is None else describe()
    is_own = trainer._optimizer_traits is None
    return EngagedRow(
        what="optimizer",
        requested=_own_name(run) if is_own else wanted,
        engaged=f"{name}, {format_count(trained)} parameters",
        ok=is_own or is_fused == wanted.endswith("_fused"),
    )


def _own_name(run: TrainRun) -> str:
    zero = run.args.zero
    return (
        "the user's own"
        if zero is None or zero.optimizer is None
        else f"{zero.source} {zero.optimizer['type']}"
    )


def check_engaged(broken: list[EngagedRow]) -> None:
    """Stop a run that would not do what was requested.

    Args:
        broken: Rows of all ranks that differ from what was requested.

    Raises:
        EngagementError: If there are any.
    """
    if broken:
        texts = [f"{row.what}: requested {row.requested}, engaged {row.engaged}" for row in broken]
        found = "; ".join(dict.fromkeys(texts))
        raise EngagementError(
            f"What was requested is not what would run: {found}. Change the arguments to what this machine supports, "
            "or run on machines that support them."
        )
