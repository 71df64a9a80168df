"""What happens between two steps, in this order: agree, log, evaluate, save."""

from __future__ import annotations

import time
from typing import Any, cast

import torch
from transformers.trainer_utils import SaveStrategy

from raytrainer.loop.loss_meter import Window
from raytrainer.loop.notes import tell
from raytrainer.loop.run import TrainRun
from raytrainer.loop.saves_beside import finish_save, is_ending, is_put_off, puts_off
from raytrainer.loop.trainable import apply_changes, has_changed
from raytrainer.runtimes.base import Command, WorkersMove
from raytrainer.telemetry.events import Evaluated, Note, StepDone
from raytrainer.trainer_protocol import TrainerProtocol

_EMIT_EVERY_S = 0.2
_FLAGS = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")
_COMMANDS = (Command.MOVE, Command.STOP_AFTER_SAVE, Command.STOP)

_STEP_EVENTS = ("on_step_begin", "on_substep_end")
"""Events within a step whose callbacks may ask for something that all ranks must do."""


def agree_on_events(run: TrainRun) -> None:
    """All ranks, when an epoch begins: see which events within a step callbacks of any rank listen to.

    After those the ranks synchronize. A rank may have callbacks that the others lack.
    """
    handler = run.trainer.callback_handler
    heard = run.runtime.agree([int(handler.overrides(event)) for event in _STEP_EVENTS])
    run.step_events = frozenset(
        event for event, is_heard in zip(_STEP_EVENTS, heard, strict=True) if is_heard
    )


def agree_on_control(run: TrainRun, *more: int) -> list[int]:
    """All ranks: make every rank act alike on what any rank's callbacks, or the driver, asked for.

    They also see whether callbacks have frozen or unfrozen parameters.

    Args:
        run: The run.
        *more: Numbers to be added up over ranks in the same message, as many on each rank.

    Returns:
        Their sums.
    """
    control, sums = run.trainer.control, list(more)
    command, is_changed = run.runtime.command(), has_changed(run)
    if run.runtime.world_size > 1:
        flags = [int(getattr(control, flag)) for flag in _FLAGS]
        reached = [int(command >= one) for one in _COMMANDS]  # whose sums tell the most urgent command
        found = iter(run.runtime.add_up([*flags, *reached, int(is_changed), *more]))
        for flag in _FLAGS:
            setattr(control, flag, bool(next(found)))
        command = Command(sum(next(found) > 0 for _ in _COMMANDS))
        is_changed, *sums = found
    if is_changed:
        apply_changes(run)
    if command == Command.NONE:
        return sums
    if command >= Command.STOP:
        run.stopped = control.should_training_stop = True
        control.should_save = control.should_evaluate = control.should_log = False
    elif command == Command.STOP_AFTER_SAVE and not run.interrupted:
        run.interrupted = True
        control.should_training_stop = True
        control.should_save |= is_unsaved(run)
    elif command == Command.MOVE and not run.moves:
        run.moves = True
        control.should_save |= is_unsaved(run)
    return sums


def is_unsaved(run: TrainRun) -> bool:
    """Whether steps were taken that no checkpoint has."""
    return run.trainer.state.global_step > run.saved_step


def at_boundary(run: TrainRun) -> None:
    """All ranks: log, evaluate and save as the agreed control says."""
    trainer = run.trainer
    control = trainer.control
    control.should_save |= is_put_off(run)
    acted = control.should_log or control.should_evaluate or control.should_save
    if not acted:
        return
    is_last = is_ending(run)  # what callbacks ask for below, ranks agree on at the end
    if control.should_log and trainer.state.global_step > run.meter.logged_step:
        log_window(run)
    metrics: dict[str, float] | None = None
    if trainer.control.should_evaluate:
        metrics = trainer._evaluate(trainer._trial, run.ignore_keys_for_eval)
        # All ranks save, or none, though callbacks of one alone may have asked for it.
        trainer.control.should_save = bool(run.runtime.agree([int(trainer.control.should_save)])[0])
        is_best = trainer._determine_best_metric(metrics=metrics, trial=trainer._trial)
        if run.args.save_strategy == SaveStrategy.BEST:
            trainer.control.should_save = is_best or ((run.interrupted or run.moves) and is_unsaved(run))
    if trainer.control.should_save and puts_off(run, is_last=is_last):
        trainer.control.should_save = False
    if trainer.control.should_save:
        _save(run)
    if metrics is not None:
        trainer._report_to_hp_search(trainer._trial, trainer.state.global_step, metrics)
    run.speed.restart()  # The time of an evaluation or a save does not count as training.
    # Callbacks of evaluate and save may have asked to stop, on some ranks only; and the driver, meanwhile.
    agree_on_control(run)
    if _is_save_missing(run):
        _save(run)
        agree_on_control(run)


def _save(run: TrainRun) -> None:
    """All ranks: save, and tell callbacks, or have them told when it is committed."""
    trainer = run.trainer
    trainer._save_checkpoint(run.model, trial=trainer._trial)
    if run.saves_beside is None:
        trainer.control = trainer.callback_handler.on_save(run.args, trainer.state, trainer.control)
    else:
        trainer.control.should_save = False


def _is_save_missing(run: TrainRun) -> bool:
    """All ranks, at the end of a boundary: whether a save was asked for amid it, which no later one would make."""
    is_left = run.interrupted or run.moves
    return (is_left and is_unsaved(run) and not run.stopped) or is_put_off(run)


def leave_if_moving(run: TrainRun) -> None:
    """All ranks, after a boundary: leave for other workers, if that was asked for and steps are left for them.

    Raises:
        WorkersMove: On all ranks at the same step. What they trained is saved.
    """
    state = run.trainer.state
    is_over = run.trainer.control.should_training_stop or state.global_step >= state.max_steps
    if run.moves and not is_over and not is_unsaved(run):
        settle_save(run)
        raise WorkersMove


def settle_save(run: TrainRun) -> None:
    """All ranks, when no step follows here: wait until what is saved is committed, and make what is missing.

    Raises:
        CheckpointError: On all ranks, if storage failed on one of them.
    """
    finish_save(run)
    if is_put_off(run):
        _save(run)
        finish_save(run)


def report_evaluation(run: TrainRun, step: int, metrics: dict[str, float]) -> None:
    """Rank 0 tells the driver what an evaluation gave; the others wait for it where ranks agree next.

    Args:
        run: The run.
        step: Optimizer steps that are done.
        metrics: What the evaluation gave.
    """
    if run.runtime.rank != 0:
        return
    state = run.trainer.state
    run.runtime.consult(
        step,
        Evaluated(
            step=step,
            epoch=float(state.epoch or 0.0),
            metrics=dict(metrics),
            max_steps=state.max_steps,
            checkpoint=run.last_checkpoint,
        ),
    )


def log_window(run: TrainRun) -> None:
    """All ranks: the mean loss since the last log, over ranks."""
    trainer = run.trainer
    window = run.meter.window()
    speed = run.speed.read()
    bad_step = -1.0 if run.meter.first_bad_step is None else float(run.meter.first_bad_step)
    row = [window.total, window.empty_steps, speed, bad_step, float(len(run.pending_notes))]
    per_rank = gather_rows(run, row)
    run.rank_speeds = [row[2] for row in per_rank]
    report_bad_loss(run, [row[3] for row in per_rank])
    if any(row[4] for row in per_rank):
        deliver_notes(run)
    logs: dict[str, Any] = {"loss": run.meter.close_window(mean_window(per_rank), trainer.state.global_step)}
    if run.grad_norm is not None:
        logs["grad_norm"] = run.grad_norm.item() if torch.is_tensor(run.grad_norm) else run.grad_norm
    rate = run.learning_rate
    logs["learning_rate"] = rate if rate is not None else trainer._get_learning_rate()
    if run.args.is_elastic:
        logs["num_workers"] = run.runtime.world_size
    trainer.store_flos()
    call_log(trainer, logs, run.started_at)


def call_log(trainer: TrainerProtocol, logs: dict[str, Any], start_time: float | None = None) -> None:
    """Call the ``log`` hook, of which many overrides take the logs alone.

    Args:
        trainer: The trainer.
        logs: Name -> value.
        start_time: When training started [seconds since the epoch], if speeds are logged.
    """
    log: object = type(trainer).log
    code = getattr(log, "__code__", None)
    if start_time is None or (code is not None and code.co_argcount < 3 and not code.co_flags & 0x0C):
        trainer.log(logs)
    else:
        trainer.log(logs, start_time)


def gather_rows(run: TrainRun, row: list[float]) -> list[list[float]]:
    """All ranks: every rank's row of numbers, on every rank, as float64."""
    if run.runtime.world_size == 1:
        return [row]
    rows = torch.zeros(run.runtime.world_size, len(row), dtype=torch.float64, device=run.args.device)
    rows[run.runtime.rank] = torch.tensor(row, dtype=torch.float64)
    # Each number is added to zeros only, so a NaN stays with the rank that has it.
    return cast("list[list[float]]", run.backend.sum_over_ranks(rows).tolist())


def mean_window(per_rank: list[list[float]]) -> Window:
    """The mean of the ranks' windows, which begin their rows."""
    totals, empty_steps, *_ = zip(*per_rank, strict=True)
    return Window(total=sum(totals) / len(per_rank), empty_steps=sum(empty_steps) / len(per_rank))


def window_over_ranks(run: TrainRun) -> Window:
    """All ranks: the mean over ranks of the losses since the last log."""
    window = run.meter.window()
    return mean_window(gather_rows(run, [window.total, window.empty_steps]))


def deliver_notes(run: TrainRun) -> None:
    """All ranks: rank 0 passes on to the driver what the others have to say."""
    gathered = run.runtime.gather(run.pending_notes) or []
    run.pending_notes = []
    for text in (one for notes in gathered for one in notes):
        run.runtime.emit(Note(text=text, level="warning"))


def report_bad_loss(run: TrainRun, first_bad_steps: list[float]) -> None:
    """Report once at which step and on which ranks the loss was not finite."""
    bad = {rank: int(step) for rank, step in enumerate(first_bad_steps) if step >= 0}
    if not bad or run.reported_bad_loss:
        return
    run.reported_bad_loss = True
    where = ", ".join(f"step {step} on rank {rank}" for rank, step in bad.items())
    is_filtered = run.args.logging_nan_inf_filter
    logged = "left out of what is logged (logging_nan_inf_filter)" if is_filtered else "logged as it is"
    text = (
        f"The training loss is not finite (first at {where}). It is {logged}. Lower the learning rate, check the data "
        "of that step, or set max_grad_norm."
    )
    tell(run.runtime, text)
    # All ranks: those that are not rank 0 have no way to the driver of their own.
    origins = run.runtime.gather(run.bad_loss_origin)
    for one in (origins or [])[1:]:
        if one is not None and run.runtime.rank == 0:
            run.runtime.emit(Note(text=one, level="warning"))


def emit_progress(run: TrainRun, *, always: bool = False) -> None:
    """Report the progress of the run to the driver, a few times a second at most."""
    if run.runtime.rank != 0:
        return
    now = time.monotonic()
    if not always and now - run.last_emit < _EMIT_EVERY_S:
        return
    run.last_emit = now
    state = run.trainer.state
    done = state.global_step - run.resumed_step
    left = state.max_steps - state.global_step
    eta_s = (time.time() - run.started_at) / done * left if done > 0 else None
    run.runtime.emit(
        StepDone(
            step=state.global_step,
            max_steps=state.max_steps,
            epoch=float(state.epoch or 0.0),
            samples_per_s=run.rank_speeds,
            eta_s=eta_s,
        )
    )
