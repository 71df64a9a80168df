"""The life of one ``train()`` call on a rank: open, loop over epochs and steps, close."""

from __future__ import annotations

import logging
from typing import Any, cast

from transformers.trainer_utils import (
    SaveStrategy,
    TrainOutput,
    speed_metrics,  # pyright: ignore[reportUnknownVariableType]
)

from raytrainer.checkpoint.rng import read_pass_start
from raytrainer.data.position import open_epoch, own_generators
from raytrainer.hub.checkpoint_uploads import finish_uploads
from raytrainer.loop.boundary import (
    agree_on_control,
    agree_on_events,
    at_boundary,
    call_log,
    emit_progress,
    leave_if_moving,
    settle_save,
    window_over_ranks,
)
from raytrainer.loop.count_ahead import held_items
from raytrainer.loop.elastic_draws import epoch_state, seed_between_steps
from raytrainer.loop.failed_step import tell_late_cause, tell_step
from raytrainer.loop.lost_output import look_for_saved, tell_what_is_gone
from raytrainer.loop.notes import tell
from raytrainer.loop.rank_check import check_ranks_agree, is_check_due
from raytrainer.loop.run import TrainRun
from raytrainer.loop.sample_ledger import check_ledger_of_epoch, open_ledger, record_step
from raytrainer.loop.saves_beside import is_writing, look_for_commit
from raytrainer.loop.saving import checkpoint_storage
from raytrainer.loop.step import take_step
from raytrainer.loop.trainable import after_train_begin, follow
from raytrainer.random_state import HostRandomState
from raytrainer.telemetry.events import TrainEnded

logger = logging.getLogger(__name__)


def train(run: TrainRun) -> TrainOutput:
    """All ranks: run the loop of an opened run to its end.

    A run that was restored at its very end takes no step, but goes through what follows its last step, so that an
    attempt that was killed there ends like one that was not.
    """
    trainer, args = run.trainer, run.args
    stop_was_saved = run.is_restart and trainer.control.should_training_stop
    run.backend.zero_grad(run.model)
    trainer.control = trainer.callback_handler.on_train_begin(args, trainer.state, trainer.control)
    trainer.control.should_training_stop |= stop_was_saved
    after_train_begin(run)
    if args.eval_on_start and trainer.state.global_step == 0:
        metrics = trainer._evaluate(trainer._trial, run.ignore_keys_for_eval, skip_scheduler=True)
        trainer._report_to_hp_search(trainer._trial, 0, metrics)
    open_ledger(run, checkpoint_storage(trainer).directory)
    emit_progress(run, always=True)
    trainer.control.should_training_stop |= run.is_ended
    num_epochs = run.plan.num_epochs + run.cursor.num_more_epochs
    for epoch in range(run.cursor.epoch, num_epochs if not run.is_ended else 0):
        run_epoch(run, epoch)
        if trainer.control.should_training_stop:
            break
    return close(run)


def run_epoch(run: TrainRun, epoch: int) -> None:
    """All ranks: train on the rest of one epoch, and go through its end.

    An interrupted run leaves the end of its epoch, with what is due there, to the run that goes on.
    """
    trainer, args = run.trainer, run.args
    if run.cursor.is_at_epoch_end and is_over(run):
        restore_rng(run)
        return
    trainer.control = trainer.callback_handler.on_epoch_begin(args, trainer.state, trainer.control)
    follow(run, looks_for_new=True)
    agree_on_events(run)
    run.cursor.epoch = epoch
    is_exhausted = False
    if not is_over(run):
        run.cursor.is_at_epoch_end = False
        is_exhausted = train_on_epoch(run, epoch)
    else:
        run.stream_position = None
        restore_rng(run)
    is_complete = run.plan.has_length and run.cursor.micro_batches >= run.plan.micro_batches_per_epoch
    check_ledger_of_epoch(run, is_whole=is_exhausted or is_complete)
    if run.interrupted:
        return
    if run.cursor.micro_batches == 0 and not trainer.control.should_training_stop:
        logger.warning(
            "The training data gave no batch, so training ends at step %d of %d. An iterable dataset has fewer "
            "samples than max_steps needs.",
            trainer.state.global_step,
            trainer.state.max_steps,
        )
        trainer.control.should_training_stop = True
    trainer.control = trainer.callback_handler.on_epoch_end(args, trainer.state, trainer.control)
    agree_on_control(run)
    if is_exhausted or is_complete or trainer.control.should_epoch_stop:
        # From here on the epoch is closed: a checkpoint that is saved now goes on with the next one. An epoch in which
        # training stopped stays open, for a run with more steps.
        run.cursor.samples_before = run.cursor.samples_consumed(run.plan)
        run.cursor.epoch, run.cursor.micro_batches = epoch + 1, 0
        run.batches = None
    run.cursor.is_at_epoch_end = True
    at_boundary(run)
    leave_if_moving(run)


def is_over(run: TrainRun) -> bool:
    """Whether this epoch has no step left for this run."""
    state = run.trainer.state
    return (
        run.cursor.micro_batches >= run.plan.micro_batches_per_epoch
        or state.global_step >= state.max_steps
        or run.trainer.control.should_training_stop
    )


def train_on_epoch(run: TrainRun, epoch: int) -> bool:
    """All ranks: the steps of one epoch, from where the cursor stands.

    Returns:
        Whether the data came to its end.
    """
    trainer = run.trainer
    is_fresh = run.cursor.micro_batches == 0
    if is_fresh:
        # The state was saved before this epoch's iterator drew its seed from it ...
        restore_rng(run)
    run.pass_began = began_with(run, epoch, is_fresh=is_fresh)
    batches = open_epoch(
        run.loader,
        epoch=epoch,
        skip_samples=run.cursor.samples_in_epoch(run.plan),
        skip_micro_batches=run.cursor.micro_batches,
        num_wanted=(trainer.state.max_steps - trainer.state.global_step) * run.plan.accumulation,
        stream=run.stream_position,
        began=None if is_fresh else run.pass_began,
    )
    run.stream_position = None
    run.batches = batches
    if not is_fresh:
        # ... or after it, in the middle of the epoch, when the next micro-batch had been fetched.
        restore_rng(run)
    device = run.args.device
    while not is_over(run):
        try:
            group, num_items = trainer.get_batch_samples(
                batches, run.plan.group_size(run.cursor.micro_batches), device
            )
        except Exception as error:
            tell_step(run, error)
            raise
        if not group:
            return True
        train_on_group(run, group, num_items)
        if trainer.control.should_epoch_stop or trainer.control.should_training_stop:
            break
    return False


def train_on_group(run: TrainRun, group: list[Any], num_items: Any) -> None:
    """All ranks: one step, and what follows it.

    Args:
        run: The run.
        group: This rank's micro-batches of the step.
        num_items: Targets of the step over all ranks; None where they are not counted.
    """
    try:
        if take_step(run, group, num_items):
            if run.ledger is not None:
                record_step(run, len(group))
            finish_step(run)
            if run.moves:
                leave_if_moving(run)
    except Exception as error:
        tell_late_cause(run, error)
        raise


def finish_step(run: TrainRun) -> None:
    """All ranks: what follows a step."""
    if is_check_due(run):
        check_ranks_agree(run)
    if run.runtime.world_size == 1:
        agree_on_control(run)
        num_writing = run.saves_beside is not None and is_writing(run)
    else:
        num_writing = agree_ahead(run)
    if run.saves_beside is not None and not num_writing and look_for_commit(run):
        agree_on_control(run)
    if run.runtime.rank == 0:
        emit_progress(run)
        if run.args.save_strategy != SaveStrategy.NO:
            look_for_saved(run, checkpoint_storage(run.trainer))
    at_boundary(run)


def agree_ahead(run: TrainRun) -> int:
    """All ranks, after a step: agree on the control flags, and count the targets of the next step if they can.

    Returns:
        How many ranks still write a save.
    """
    held = held_items(run) if run.count_ahead.is_possible else None
    num_items = 0 if held is None else held[1]
    num_writing, num_without, total = agree_on_control(run, is_writing(run), held is None, num_items)
    if held is not None and num_without == 0:
        run.count_ahead.keep(held[0], total)
    return num_writing


def began_with(run: TrainRun, epoch: int, *, is_fresh: bool) -> HostRandomState | None:
    """This rank's random state when an epoch begins, or began, if the checkpoint that the run goes on from has it."""
    if run.plan.dealing is not None:
        state = epoch_state(run, epoch)
        if is_fresh:
            state.restore(own_generators(run.loader))
        return state
    if is_fresh:
        return HostRandomState.now(own_generators(run.loader))
    if run.rng_checkpoint is None:
        return None
    rank, world_size = run.runtime.rank, run.runtime.world_size
    return read_pass_start(run.rng_checkpoint, rank=rank, world_size=world_size)


def restore_rng(run: TrainRun) -> None:
    """Restore this rank's random state of the checkpoint that the run began from, once."""
    seed_between_steps(run)
    if run.rng_checkpoint is not None and run.plan.dealing is None:
        run.trainer._load_rng_state(run.rng_checkpoint)
        run.rng_checkpoint = None


def close(run: TrainRun) -> TrainOutput:
    """All ranks: final metrics, the best model, the last clean-up."""
    trainer, args, state = run.trainer, run.args, run.trainer.state
    settle_save(run)
    open_window = window_over_ranks(run)
    train_loss = run.meter.average(open_window, state.global_step)
    steps_here = state.global_step - run.meter.first_step
    empty_steps = run.meter.empty_steps(open_window)
    if empty_steps > 0:
        text = f"{empty_steps:g} of {steps_here} steps had no target; train_loss is the mean over the others."
        tell(run.runtime, text)
    num_samples = run.plan.num_train_samples * steps_here / max(state.max_steps, 1)
    metrics = cast(
        "dict[str, Any]",
        speed_metrics("train", run.called_at, num_samples=num_samples, num_steps=steps_here),
    )
    trainer.store_flos()
    metrics["total_flos"] = state.total_flos
    metrics["train_loss"] = train_loss
    trainer.is_in_train = False
    trainer._memory_tracker.stop_and_update_metrics(metrics)
    emit_progress(run, always=True)
    call_log(trainer, metrics)
    if args.load_best_model_at_end and state.best_model_checkpoint is not None and not run.stopped:
        trainer._load_best_model()
    trainer.control = trainer.callback_handler.on_train_end(args, state, trainer.control)
    finish_uploads(run)
    tell_what_is_gone(run, checkpoint_storage(trainer))
    tidy_up(run)
    if run.runtime.rank == 0:
        run.runtime.emit(
            TrainEnded(
                step=state.global_step,
                metrics=dict(metrics),
                places=output_paths(run),
                interrupted=run.interrupted,
            )
        )
    # All ranks: nobody leaves before the files of the last save are all in place.
    run.runtime.barrier()
    return TrainOutput(state.global_step, train_loss, metrics)


def tidy_up(run: TrainRun) -> None:
    """Delete all checkpoints but the best one, if ``save_total_limit`` is 1 and no step is left to go on with.

    Whoever stopped a run before its last step (Ctrl-C, SIGTERM, a callback, early stopping) may go on with it, so its
    newest checkpoint stays beside the best one. This comes last, so that a failure before it loses neither.
    """
    args, state = run.args, run.trainer.state
    if run.interrupted or state.global_step < state.max_steps or state.best_model_checkpoint is None:
        return
    if args.should_save and args.save_total_limit == 1:
        keep = {state.best_model_checkpoint}
        checkpoint_storage(run.trainer).prune(limit=1, keep=keep, owners=run.owners, keep_newest=False)


def output_paths(run: TrainRun) -> dict[str, str]:
    """What a user may look for after training, and its path."""
    storage = checkpoint_storage(run.trainer)
    found: dict[str, str] = {"run": storage.location}
    newest = storage.checkpoint(run.trainer.state.global_step)
    if storage.has_checkpoint(run.trainer.state.global_step, run.owners):
        found["last checkpoint"] = newest
    if run.trainer.state.best_model_checkpoint is not None:
        found["best checkpoint"] = run.trainer.state.best_model_checkpoint
    if (storage.directory / "logs").is_dir():
        found["logs"] = storage.below("logs")
    return found
