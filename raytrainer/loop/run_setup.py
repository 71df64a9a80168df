"""Setting up a run on a rank: data, plan, optimizer, schedule, and what a checkpoint restores.

The order is that of transformers where it decides numbers: weights are loaded before the model is wrapped, the
optimizer is built on the wrapped model's parameters, and the schedule on the raw optimizer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch.utils.data import DataLoader
from transformers import TrainerState
from transformers.trainer_utils import (
    compare_trainer_and_checkpoint_args,  # pyright: ignore[reportUnknownVariableType]
    has_length,
)

from raytrainer.arguments.accelerator_config import syncs_each_batch
from raytrainer.backends.base import Backend
from raytrainer.callbacks.early_stopping import ended_by
from raytrainer.callbacks.saved_states import describe_states, differing_states, export_states
from raytrainer.checkpoint.locate import is_checkpoint
from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.state_files import load_trainer_state
from raytrainer.data.loader import RankDataLoader, dealing_of
from raytrainer.data.undivided import describe_undivided, is_divided
from raytrainer.errors import CheckpointError, ConfigurationError
from raytrainer.loop.count_ahead import CountAhead, can_count_ahead
from raytrainer.loop.item_count import loss_function_of
from raytrainer.loop.loop_state import LoopState, read_loop_state
from raytrainer.loop.loss_meter import LossMeter, Window
from raytrainer.loop.loss_scaling import LossScaling
from raytrainer.loop.notes import tell, tell_for_all
from raytrainer.loop.plan import Cursor, TrainPlan, make_plan
from raytrainer.loop.run import TrainRun
from raytrainer.loop.trainable import restore_groups, restore_start, trainable_of
from raytrainer.loop.untrained import tell_left_out
from raytrainer.optim.catalogue import check_backend, look_up, reduces
from raytrainer.optim.group_options import GroupOptions
from raytrainer.optim.ties import check_covers, check_tied
from raytrainer.runtimes.base import Runtime
from raytrainer.telemetry.throughput import SpeedMeter
from raytrainer.trainer_protocol import TrainerProtocol


def open_run(
    trainer: TrainerProtocol,
    *,
    runtime: Runtime,
    backend: Backend,
    checkpoint: Path | None,
    is_restart: bool,
    ignore_keys_for_eval: list[str] | None,
    compute_loss_override: Any | None,
) -> TrainRun:
    """All ranks: prepare a run on the trainer's model.

    Args:
        trainer: The bound trainer.
        runtime: Where this rank runs.
        backend: Wraps the model.
        checkpoint: What the run goes on from; the same on all ranks.
        is_restart: The checkpoint is of an earlier attempt of this run, which so goes on as if nothing had happened.
        ignore_keys_for_eval: Passed on to evaluation.
        compute_loss_override: The user's ``compute_loss``, when it is not ours.
    """
    args = trainer.args
    if checkpoint is not None:
        trainer._load_from_checkpoint(str(checkpoint))
    loader = trainer.get_train_dataloader()
    if runtime.world_size > 1 and not is_divided(loader):
        tell(runtime, describe_undivided(loader, runtime.world_size))
    plan = plan_of(trainer, loader)
    saved = read_loop_state(checkpoint) if checkpoint is not None else None
    changed = saved.trainable if saved is not None else None
    restore_start(trainer, changed)
    model = prepare(trainer, backend, plan)
    trainable = trainable_of(trainer, backend)
    tell_left_out(trainer, trainable)
    if checkpoint is not None:
        if backend.rounds_weights:
            trainer._load_from_checkpoint(str(checkpoint))
        restore_groups(trainer, backend, changed)
        own_options = GroupOptions.of(trainer.optimizer, trainer.lr_scheduler)
        trainer._load_optimizer_and_scheduler(str(checkpoint))
        trainer._load_scaler(str(checkpoint))
        if trainer._trial is not None:
            own_options.apply(trainer.optimizer, trainer.lr_scheduler)
    trainer.state = fresh_state(trainer, plan)
    cursor = Cursor()
    if checkpoint is not None:
        cursor = restore_state(trainer, plan, checkpoint, saved, is_restart=is_restart)
    set_references(trainer, plan, loader)
    run = TrainRun(
        trainer=trainer,
        args=args,
        runtime=runtime,
        backend=backend,
        plan=plan,
        cursor=cursor,
        loader=loader,
        model=model,
        scaling=LossScaling(
            override=compute_loss_override,
            function=loss_function_of(trainer),
            smooths=trainer.label_smoother is not None and trainer.model_accepts_loss_kwargs,
            declared=trainer.loss_is_scaled_for_ga,
            counted_ranks=runtime.world_size if args.average_tokens_across_devices else 1,
            model=trainer.model,
            model_accepts_count=trainer.model_accepts_loss_kwargs,
            report=functools.partial(tell, runtime),
        ),
        trainable=trainable,
        meter=LossMeter(first_step=trainer.state.global_step, fills_in=bool(args.logging_nan_inf_filter)),
        speed=SpeedMeter(),
        micro_batch_size=args.train_batch_size,
        reduces_each=syncs_each_batch(args),
        is_restart=is_restart,
        resumed_step=trainer.state.global_step,
        saved_step=trainer.state.global_step,
        first_tokens=trainer.state.num_input_tokens_seen,
        ignore_keys_for_eval=ignore_keys_for_eval,
        updates_in_backward=hasattr(trainer.optimizer, "take_grad_norm"),
        last_checkpoint=None if checkpoint is None else str(checkpoint),
        rng_checkpoint=str(checkpoint) if checkpoint is not None and not args.ignore_data_skip else None,
    )
    run.count_ahead = CountAhead(is_possible=can_count_ahead(run))
    if saved is not None:
        restore_window(run, saved)
    if checkpoint is not None and not is_restart:
        run.is_ended = is_ended(trainer)
    trainer._restore_task_state(saved.task if saved is not None else {})
    return run


def plan_of(trainer: TrainerProtocol, loader: Any) -> TrainPlan:
    """Derive the plan from the arguments and the loader."""
    args = trainer.args
    length = len(loader) if has_length(loader) else None
    dealing = dealing_of(args)
    if dealing is not None and not isinstance(loader, RankDataLoader):
        raise ConfigurationError(
            f"num_workers={args.num_workers!r} lets the number of workers change, so micro-batches are dealt out to "
            f"those there are, and get_train_dataloader returned a {type(loader).__name__}, whose batches cannot be. "
            "Return what super().get_train_dataloader() returns, or train on a fixed number, "
            f"num_workers={args.max_workers}."
        )
    return make_plan(
        max_steps=args.max_steps,
        num_train_epochs=args.num_train_epochs,
        accumulation=args.gradient_accumulation_steps,
        per_device_batch_size=args.train_batch_size,
        world_size=args.world_size if dealing is None else dealing.parts,
        loader_length=length,
        num_examples=trainer.num_examples(loader) if length else None,
        dealing=dealing,
    )


def prepare(trainer: TrainerProtocol, backend: Backend, plan: TrainPlan) -> Any:
    """All ranks: wrap the model, build optimizer and schedule.

    Args:
        trainer: The trainer; its model and optimizer are replaced by the wrapped ones.
        backend: Wraps them.
        plan: Has the number of steps of the schedule.

    Returns:
        The model to train.
    """
    trainer._drop_created_scheduler()  # the optimizer of an earlier train() goes on
    model = trainer.model_wrapped
    if model is None or backend.unwrap(model) is model:
        model = backend.wrap(trainer.model, reduces=not optimizer_reduces(trainer))
        trainer.model_wrapped = model
    if trainer.optimizer is None or trainer.lr_scheduler is None:
        trainer.create_optimizer_and_scheduler(num_training_steps=plan.max_steps)
    if trainer._optimizer_traits is None:  # the user's own
        # Before a backend takes it over: DeepSpeed fails on parameters that it has not made.
        check_covers(trainer.optimizer, list(trainer.model.named_parameters()))
    if trainer._optimizer_traits is None or not trainer._created_lr_scheduler:
        check_tied(trainer.optimizer, trainer.lr_scheduler)
    if trainer._optimizer_traits is not None:
        check_backend(look_up(trainer.args.optim), backend.name)
    trainer.model_wrapped, trainer.optimizer = backend.wrap_optimizer(model, trainer.optimizer)
    return trainer.model_wrapped


def optimizer_reduces(trainer: TrainerProtocol) -> bool:
    """Whether gradients are averaged over ranks by the optimizer, and not by the backend."""
    if trainer.optimizer_cls_and_kwargs is not None:
        return False
    is_own = trainer.optimizer is not None and trainer._optimizer_traits is None
    return not is_own and reduces(look_up(trainer.args.optim), trainer.args)


def fresh_state(trainer: TrainerProtocol, plan: TrainPlan) -> TrainerState:
    """The public state of a run that begins at step 0."""
    callback_states: Any = export_states(trainer.callback_handler.callbacks, trainer.control)
    state = TrainerState(stateful_callbacks=callback_states)
    state.is_hyper_param_search = trainer._trial is not None
    state.train_batch_size = trainer.args.per_device_train_batch_size
    state.compute_steps(trainer.args, plan.max_steps)
    return state


def best_checkpoint(known: str, checkpoint: Path) -> str | None:
    """Where the best checkpoint of a run is that goes on; None if it is gone.

    Args:
        known: Where it was.
        checkpoint: What the run goes on from. Its directory may have been moved or copied, with the best one beside it.
    """
    if is_checkpoint(known):
        return known
    beside = checkpoint.with_name(Path(known).name)
    try:
        is_of_run = read_manifest(beside).run_id in read_manifest(checkpoint).owners
    except CheckpointError:
        return None
    return str(beside) if is_of_run else None


def restore_state(
    trainer: TrainerProtocol, plan: TrainPlan, checkpoint: Path, saved: LoopState | None, *, is_restart: bool
) -> Cursor:
    """Restore the public state of a checkpoint.

    Args:
        trainer: Gets the state.
        plan: Of this run.
        checkpoint: What the run goes on from.
        saved: What the checkpoint keeps of the loop; None in one that transformers wrote.
        is_restart: The checkpoint is of an earlier attempt of this run.

    Returns:
        Where the data stood.
    """
    args = trainer.args
    state = load_trainer_state(checkpoint)
    trainer.state = state
    if state.best_model_checkpoint is not None:
        known = state.best_model_checkpoint
        state.best_model_checkpoint = best_checkpoint(known, checkpoint)
        if state.best_model_checkpoint is None:
            tell_for_all(
                trainer._runtime,
                f"The best checkpoint {known} of the resumed run does not exist any more; it is forgotten.",
            )
    if trainer._runtime.rank == 0:  # transformers warns on each rank
        compare_trainer_and_checkpoint_args(args, state)
    restore_callbacks(trainer, cast("dict[str, Any]", state.stateful_callbacks or {}), is_restart=is_restart)
    if args.ignore_data_skip:
        return Cursor(epoch=state.global_step // plan.steps_per_epoch)
    if saved is not None:
        cursor = rescaled(saved, plan, report=functools.partial(tell_for_all, trainer._runtime))
        has_same_steps = saved.global_batch_size in (None, plan.global_batch_size)
        if args.max_steps <= 0 or not plan.has_length:
            cursor.num_more_epochs = 0
        elif saved.round_size != plan.round_size or not has_same_steps:
            cursor.num_more_epochs = plan.num_more_epochs(cursor, state.global_step)
        if args.max_steps <= 0:
            tell_of_another_end(trainer, plan, cursor)
        return cursor
    epoch, micro_batches = plan.position_at(state.global_step)
    before = epoch * plan.rounds_after(plan.micro_batches_per_epoch) * plan.round_size
    return Cursor(epoch=epoch, micro_batches=micro_batches, samples_before=before)


def restore_callbacks(trainer: TrainerProtocol, states: dict[str, Any], *, is_restart: bool) -> None:
    """Restore what a checkpoint keeps of callbacks, if it is to be, and say what was or was not restored.

    Args:
        trainer: With its callbacks and control.
        states: ``TrainerState.stateful_callbacks`` of the checkpoint.
        is_restart: The checkpoint is of an earlier attempt of this run.
    """
    differing = differing_states(trainer.callback_handler.callbacks, states)
    if is_restart or trainer.args.restore_callback_states_from_checkpoint:
        trainer._load_callback_state()
        if differing:
            text = f"Restored from the checkpoint: {describe_states(differing)}."
            tell(trainer._runtime, text, level="info")
    elif differing:
        tell(
            trainer._runtime,
            f"The checkpoint has states of callbacks that are not restored: {describe_states(differing)}. Set "
            "restore_callback_states_from_checkpoint=True to restore them.",
        )


def is_ended(trainer: TrainerProtocol) -> bool:
    """Whether early stopping has ended the run that a checkpoint was restored from; if so, it is said."""
    state = trainer.state
    callback = ended_by(
        trainer.callback_handler.callbacks, cast("dict[str, Any]", state.stateful_callbacks or {})
    )
    if callback is None or state.global_step >= state.max_steps:
        return False
    tell(
        trainer._runtime,
        f"Early stopping ended this run at step {state.global_step} of {state.max_steps}, with "
        f"early_stopping_patience={callback.early_stopping_patience}, so it takes no further step. To train on, raise "
        "early_stopping_patience or leave the EarlyStoppingCallback out.",
    )
    return True


def rescaled(saved: LoopState, plan: TrainPlan, *, report: Callable[[str], None]) -> Cursor:
    """Convert the saved position to micro-batches of this plan.

    Args:
        saved: The position.
        plan: Of this run.
        report: Called with one sentence if micro-batches have another size.
    """
    cursor = dataclasses.replace(saved.cursor)
    rounds = cursor.micro_batches * saved.round_size // plan.round_size
    cursor.micro_batches = plan.micro_batches_after(rounds)
    if saved.round_size != plan.round_size:
        report(
            f"The checkpoint was saved with {saved.round_size} samples per micro-batch over all workers, and this run "
            f"takes {plan.round_size}; the data go on at sample {rounds * plan.round_size} of epoch {cursor.epoch}."
        )
    return cursor


def tell_of_another_end(trainer: TrainerProtocol, plan: TrainPlan, cursor: Cursor) -> None:
    """Say at which epoch a run ends whose steps so far had another number of samples.

    Args:
        trainer: With the restored state.
        plan: Counts steps as if the whole run had this batch size.
        cursor: Where the data stand.
    """
    step = trainer.state.global_step
    by_count, by_data = max(plan.max_steps - step, 0), plan.steps_left(cursor)
    if by_count == by_data:
        return
    epochs = plan.max_steps / plan.steps_per_epoch
    left = min(by_count, by_data)
    end = epochs - (by_data - left) / plan.steps_per_epoch
    what = (
        f"so this run ends at epoch {end:.4g} of {epochs:.4g}"
        if by_count < by_data
        else f"so its data end at step {step + left}, before the learning rate schedule does"
    )
    tell(
        trainer._runtime,
        f"With this batch size a run of {epochs:.4g} epochs has {plan.max_steps} steps. The checkpoint has {step} of "
        f"them and stands where {plan.max_steps - by_data} would be, {what}. Set max_steps={step + by_data} to train "
        f"exactly {epochs:.4g} epochs.",
    )


def restore_window(run: TrainRun, saved: LoopState) -> None:
    """Continue the log window that was open when the checkpoint was saved."""
    if run.args.torch_compile:
        # The watched forward pass is not compiled: it would compute other bits than that of a run that goes on.
        run.scaling.remember(saved.model_divides)
    if not run.args.ignore_data_skip:
        run.stream_position = saved.stream
    window = Window(total=saved.window_sum, empty_steps=saved.window_empty_steps)
    run.meter.restore_window(window, saved.logged_step)
    if run.is_restart:
        # The same train() call goes on: its totals are those of all of its attempts.
        run.meter.first_step = saved.first_step
        run.called_at = saved.called_at or run.called_at
        run.meter.logged = Window(total=saved.logged_total, empty_steps=saved.logged_empty_steps)
        run.reported_bad_loss = saved.reported_bad_loss
    elif run.meter.logged_step < run.meter.first_step:
        # A new train() call reports its own mean loss, without what the window holds from before.
        run.meter.logged = Window(total=-window.total, empty_steps=-window.empty_steps)


def set_references(trainer: TrainerProtocol, plan: TrainPlan, loader: DataLoader[Any]) -> None:
    """Set what state and callbacks refer to in this run.

    Args:
        trainer: The trainer.
        plan: Has the numbers of steps and epochs.
        loader: The training data.
    """
    state, handler = trainer.state, trainer.callback_handler
    state.max_steps = plan.max_steps
    state.num_train_epochs = plan.num_epochs
    state.is_local_process_zero = trainer.is_local_process_zero()
    state.is_world_process_zero = trainer.is_world_process_zero()
    trial = trainer._trial
    state.trial_name = trainer.hp_name(trial) if trainer.hp_name is not None and trial is not None else None
    state.trial_params = trial
    handler.model = trainer.model
    handler.optimizer = trainer.optimizer
    handler.lr_scheduler = trainer.lr_scheduler
    handler.train_dataloader = loader
