"""What a checkpoint of this loop holds, and who writes which file of it.

The backend writes weights and optimizer: rank 0 alone, or each rank its share. Rank 0 writes the schedule, the public
state and the loop's own state; every rank writes its random state. ``checkpoint.commit`` makes one committed directory
of it.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

from raytrainer.callbacks.saved_states import export_states
from raytrainer.checkpoint.commit import CheckpointFacts
from raytrainer.checkpoint.run_storage import RunStorage, storage_of
from raytrainer.checkpoint.state_files import save_trainer_state
from raytrainer.data.position import stream_position
from raytrainer.hub.checkpoint_uploads import uploads_checkpoints
from raytrainer.loop.boundary import window_over_ranks
from raytrainer.loop.committed import after_commit
from raytrainer.loop.loop_state import LoopState
from raytrainer.loop.loss_meter import Window
from raytrainer.loop.run import TrainRun
from raytrainer.loop.saves_beside import begin_save, finish_save, writes_beside
from raytrainer.telemetry.events import Busy
from raytrainer.trainer_protocol import TrainerProtocol


def checkpoint_storage(trainer: TrainerProtocol) -> RunStorage:
    """Where the checkpoints of a trainer are; ``_get_output_dir`` may be overridden."""
    return storage_of(trainer._get_output_dir(trainer._trial))


def save_checkpoint(run: TrainRun) -> str:
    """All ranks: save everything that is needed to go on, and commit it, now or beside the steps that follow.

    Returns:
        Where it is, or will be: a path or a URI.
    """
    finish_save(run)  # there is memory for one, and they are committed in their order
    trainer, args, runtime = run.trainer, run.args, run.runtime
    began = time.monotonic()
    if runtime.rank == 0:
        runtime.emit(Busy(what="a save"))
    storage = checkpoint_storage(trainer)
    step = trainer.state.global_step
    trainer.store_flos()
    window = window_over_ranks(run)
    record_best_checkpoint(run, storage)
    of_task = trainer._task_state()
    callback_states: Any = export_states(trainer.callback_handler.callbacks, trainer.control)
    trainer.state.stateful_callbacks = callback_states

    def write_states(target: Path) -> list[Path]:
        return write_state_files(run, target, loop_state(run, window, of_task))

    parts = [
        functools.partial(write_weights, run),
        functools.partial(write_optimizer, run),
        write_states,
    ]
    facts = CheckpointFacts(
        epoch=float(trainer.state.epoch or 0.0),
        samples_consumed=run.cursor.samples_consumed(run.plan),
        global_batch_size=run.plan.global_batch_size,
        model_signature=trainer._model_signature(),
        continues=run.continues,
    )
    run.saved_step = step
    keep_files = runtime.rank == 0 and uploads_checkpoints(args)
    if writes_beside(run):
        begin_save(run, storage, began=began, keep_files=keep_files, write_parts=parts, facts=facts)
        return storage.checkpoint(step)
    saved = storage.commit(step, runtime=runtime, write_parts=parts, facts=facts, keep_files=keep_files)
    after_commit(run, storage, saved, step, seconds=time.monotonic() - began)
    return saved.location


def record_best_checkpoint(run: TrainRun, storage: RunStorage) -> None:
    """All ranks: record where the best checkpoint is, if it is, or is about to be, in storage."""
    state = run.trainer.state
    if not state.best_global_step:
        return
    best = storage.checkpoint(state.best_global_step)
    if state.best_global_step == state.global_step or storage.has_checkpoint(
        state.best_global_step, run.owners
    ):
        state.best_model_checkpoint = best


def write_weights(run: TrainRun, target: Path) -> list[Path]:
    """All ranks: write the weights; ``save_model`` decides which rank writes what.

    Returns:
        No files, because hooks may have written any: the commit finds them when all ranks are done.
    """
    run.trainer.save_model(str(target), _internal_call=True)
    return []


def write_optimizer(run: TrainRun, target: Path) -> list[Path]:
    """All ranks: write the states of optimizer and schedule, and the loss scale.

    Returns:
        The files that this rank wrote, except those of hooks that do not say.
    """
    if run.args.save_only_model:
        return []
    trainer, where = run.trainer, str(target)
    written: list[Path] = []
    for save in (trainer._save_optimizer_and_scheduler, trainer._save_scaler):
        written += save(where) or []
    return written


def write_state_files(run: TrainRun, target: Path, state: LoopState) -> list[Path]:
    """This rank: write its random state; rank 0: also the state of the loop, and the public one.

    Args:
        run: The run.
        target: The checkpoint's directory.
        state: The state of the loop.

    Returns:
        The files that this rank wrote, except those of hooks that do not say.
    """
    trainer = run.trainer
    written: list[Path] = []
    if not run.args.save_only_model:
        written += trainer._save_rng_state(str(target)) or []
    if run.runtime.rank != 0:
        return written
    if not run.args.save_only_model:
        written.append(state.write(target))
    written.append(save_trainer_state(target, trainer.state))
    return written


def loop_state(run: TrainRun, window: Window, task: dict[str, Any]) -> LoopState:
    """Where the loop stands.

    Args:
        run: The run.
        window: Mean over ranks of the losses since the last log.
        task: What the trainer of one task keeps.
    """
    rounds = run.plan.rounds_after(run.cursor.micro_batches)
    return LoopState(
        cursor=dataclasses.replace(run.cursor, micro_batches=rounds),
        round_size=run.plan.round_size,
        global_batch_size=run.plan.global_batch_size,
        stream=stream_position(run.loader, run.cursor.micro_batches),
        window_sum=window.total,
        window_empty_steps=window.empty_steps,
        logged_step=run.meter.logged_step,
        logged_total=run.meter.logged.total,
        logged_empty_steps=run.meter.logged.empty_steps,
        first_step=run.meter.first_step,
        called_at=run.called_at,
        reported_bad_loss=run.reported_bad_loss,
        model_divides=run.scaling.seen,
        trainable=run.trainable.record(run.backend) if run.trainable is not None else None,
        task=task,
    )
