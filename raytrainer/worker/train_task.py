"""The ``train`` task on a rank: the model, the checkpoint to go on from, the check of its settings; then the loop."""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.trainer_pt_utils import (
    get_model_param_count,  # pyright: ignore[reportUnknownVariableType]
)
from transformers.trainer_utils import (
    SaveStrategy,
    TrainOutput,
    align_special_tokens,  # pyright: ignore[reportUnknownVariableType]
)

from raytrainer.arguments.json_file import plain_arguments
from raytrainer.callbacks.tracker_runs import RunRecord, give_record
from raytrainer.checkpoint.locate import is_inside, readable, readable_on_all
from raytrainer.checkpoint.model_match import check_matches_model
from raytrainer.checkpoint.ownership import fresh_start
from raytrainer.checkpoint.rank_agreement import of_rank_0
from raytrainer.checkpoint.replaced import predecessors
from raytrainer.checkpoint.run_storage import storage_of
from raytrainer.hub.checkpoint_uploads import begin_uploads
from raytrainer.loop.micro_batch_sizes import MicroBatchSizes
from raytrainer.loop.neftune import EmbeddingNoise
from raytrainer.loop.nonfinite import debugging
from raytrainer.loop.notes import tell
from raytrainer.loop.run import TrainRun
from raytrainer.loop.run_setup import open_run
from raytrainer.loop.saves_beside import saving_beside
from raytrainer.loop.saving import checkpoint_storage
from raytrainer.loop.train import train
from raytrainer.runtimes.base import Runtime
from raytrainer.storage.locations import is_uri
from raytrainer.telemetry import run_lines
from raytrainer.telemetry.events import TrainFailed, TrainStarted
from raytrainer.telemetry.startup import here
from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.worker.applied_settings import check_engaged, engaged_rows
from raytrainer.worker.batch_size_search import apply_saved_sizes, search_batch_size
from raytrainer.worker.recomputation import enable_recomputation
from raytrainer.worker.run_lease import held_by_run
from raytrainer.worker.setup import build_model
from raytrainer.worker.storage_notes import warnings_as_notes


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a train task begins."""

    checkpoint: Path | None
    """Where this rank reads it."""
    location: str | None = None
    """Where it is: a path, or the URI that it was fetched from."""
    is_restart: bool
    """The checkpoint was saved by an earlier attempt of this same ``train()`` call."""
    continues: tuple[str, ...] = ()
    """The runs that the run goes on with."""


def train_on_rank(
    trainer: TrainerProtocol,
    *,
    runtime: Runtime,
    resume_from_checkpoint: str | bool | None,
    ignore_keys_for_eval: list[str] | None,
    is_restart: bool,
    compute_loss_override: Any | None,
) -> TrainOutput:
    """All ranks: do what ``trainer.train()`` asks for.

    Args:
        trainer: Set up in this process.
        runtime: Where this rank runs.
        resume_from_checkpoint: As the user passed it.
        ignore_keys_for_eval: Passed on to evaluation.
        is_restart: An earlier attempt of the workers began this call.
        compute_loss_override: The user's ``compute_loss``, when it is not ours.
    """
    memory = trainer._process.memory_tracker
    assert memory is not None, "set_up creates it"
    memory.start()
    trainer.is_in_train = True

    def attempt(requested: MicroBatchSizes | None = None, is_again: bool = False) -> TrainOutput:
        origin = choose_origin(trainer, runtime, resume_from_checkpoint, is_restart=is_restart or is_again)
        return train_from(
            trainer,
            origin,
            runtime=runtime,
            ignore_keys_for_eval=ignore_keys_for_eval,
            compute_loss_override=compute_loss_override,
            requested=requested,
        )

    storage = checkpoint_storage(trainer)
    in_bucket = is_uri(storage.location)
    try:
        with warnings_as_notes(runtime):
            if saves(trainer) or in_bucket:
                storage.check_from_all(runtime)
            with held_by_run(storage.location, runtime, saves=saves(trainer)):
                prepare_model(trainer)
                if trainer.args.auto_find_batch_size:
                    return search_batch_size(trainer, runtime, attempt)
                return attempt()
    except BaseException as error:
        if runtime.rank == 0:
            ends = isinstance(error, KeyboardInterrupt | SystemExit)
            runtime.emit(TrainFailed(type_name=type(error).__name__, text=str(error), interrupted=ends))
        raise
    finally:
        trainer.is_in_train = False


def train_from(
    trainer: TrainerProtocol,
    origin: Origin,
    *,
    runtime: Runtime,
    ignore_keys_for_eval: list[str] | None,
    compute_loss_override: Any | None,
    requested: MicroBatchSizes | None,
) -> TrainOutput:
    """All ranks: open a run where it begins, and train it to its end.

    Args:
        trainer: With its model.
        origin: Where it begins.
        runtime: Where this rank runs.
        ignore_keys_for_eval: Passed on to evaluation.
        compute_loss_override: The user's ``compute_loss``, when it is not ours.
        requested: What the arguments asked for, when others may fit better.
    """
    run: TrainRun | None = None
    if requested is not None:
        apply_saved_sizes(trainer.args, origin.checkpoint)
    trainer._train_batch_size = trainer.args.per_device_train_batch_size
    try:
        run = open_run(
            trainer,
            runtime=runtime,
            backend=trainer._backend,
            checkpoint=origin.checkpoint,
            is_restart=origin.is_restart,
            ignore_keys_for_eval=ignore_keys_for_eval,
            compute_loss_override=compute_loss_override,
        )
        with saving_beside(run):
            run.continues = origin.continues
            if requested is not None:
                run.requested_sizes = requested
                trainer.state.train_batch_size = trainer.args.per_device_train_batch_size
            trainer._process.run = run
            if run.updates_in_backward:
                trainer.optimizer.arm()
            if trainer.neftune_noise_alpha is not None:
                run.noise = EmbeddingNoise(trainer.model, trainer.neftune_noise_alpha)
            give_record(
                trainer.callback_handler.callbacks, record_of(run, origin, is_restart=origin.is_restart)
            )
            announce(run, origin)
            trainer._process.trained_world_size = runtime.world_size
            begin_uploads(run, origin.checkpoint if origin.is_restart else None)
            noise = run.noise() if run.noise is not None else contextlib.nullcontext()
            with debugging(run), noise:
                return train(run)
    finally:
        trainer._process.run = None
        close_storage(trainer)
        if run is not None:
            run.scaling.close()
            if run.updates_in_backward:
                trainer.optimizer.disarm()


def close_storage(trainer: TrainerProtocol) -> None:
    """This rank, however its run ended: bring logs and reports to the bucket, and delete copies of checkpoints."""
    of_checkpoints, of_run = checkpoint_storage(trainer), storage_of(trainer.args.output_dir)
    of_checkpoints.share()
    if of_run.location != of_checkpoints.location:
        of_run.share()
    of_checkpoints.release()


def prepare_model(trainer: TrainerProtocol) -> None:
    """Build the model if the trainer has a factory, and apply the arguments that change it."""
    args = trainer.args
    if trainer.model_init is not None:
        build_model(trainer)
    enable_recomputation(args, trainer.model)
    can_align = isinstance(trainer.processing_class, PreTrainedTokenizerBase | ProcessorMixin)
    if can_align and hasattr(trainer.model, "config"):
        align_special_tokens(trainer.model, trainer.processing_class)


def choose_origin(
    trainer: TrainerProtocol, runtime: Runtime, requested: str | bool | None, *, is_restart: bool
) -> Origin:
    """All ranks: agree on what to go on from. Rank 0 looks; an error there is an error everywhere.

    Args:
        trainer: With its model.
        runtime: Where this rank runs.
        requested: ``resume_from_checkpoint`` as the user passed it.
        is_restart: Whether this task was begun before.
    """
    agreed = of_rank_0(runtime, lambda: find_origin(trainer, runtime, requested, is_restart=is_restart))
    if agreed.location is None:
        return agreed
    return replace(agreed, checkpoint=readable_on_all(agreed.location, runtime))


def find_origin(
    trainer: TrainerProtocol, runtime: Runtime, requested: str | bool | None, *, is_restart: bool
) -> Origin:
    """Find the checkpoint to go on from.

    A restart takes the newest one that its own run committed; without one it begins where the run itself began.
    Checkpoints of another run in the same directory are never taken for its own.

    Args:
        trainer: With its model.
        runtime: Where this rank runs.
        requested: ``resume_from_checkpoint`` as the user passed it.
        is_restart: Whether this task was begun before.

    Raises:
        CheckpointError: If a checkpoint was asked for and there is none to go on from.
    """
    storage = checkpoint_storage(trainer)
    # An override reads what it wrote; otherwise the weights must be those of the model.
    has_weights = "_load_from_checkpoint" not in trainer._overrides()

    def report(text: str) -> None:
        tell(runtime, text)

    trainer._finish_current_push()  # it reads from a directory that looks like a leftover
    storage.sweep()
    if is_restart:
        own = storage.newest(run_id=runtime.run_id, report=report)
        if own is not None:
            return Origin(
                checkpoint=None,
                location=own,
                is_restart=True,
                continues=predecessors(readable(own), of_restart=True),
            )
    location = storage.requested(requested, report=report, has_weights=has_weights)
    if location is not None and has_weights:
        check_matches_model(readable(location), trainer.model)
    if location is None:
        others = storage.of_others({runtime.run_id}) if saves(trainer) and not is_restart else []
        if others:
            report(fresh_start(storage.location, others))
        return Origin(checkpoint=None, location=None, is_restart=False)
    continues = predecessors(readable(location), of_restart=False)
    return Origin(checkpoint=None, location=location, is_restart=False, continues=continues)


def saves(trainer: TrainerProtocol) -> bool:
    """Whether training saves checkpoints."""
    return trainer.args.save_strategy != SaveStrategy.NO


def record_of(run: TrainRun, origin: Origin, *, is_restart: bool) -> RunRecord:
    """Return the ids of this run in trackers: the earlier ones, if it continues in the same directory.

    Args:
        run: The run.
        origin: Where it starts from.
        is_restart: Whether this is a later attempt.
    """
    storage = checkpoint_storage(run.trainer)
    return RunRecord(
        storage.directory,
        run_id=run.runtime.run_id,
        is_restart=is_restart,
        is_resumed=origin.location is not None
        and (run.trainer._trial is not None or is_inside(origin.location, storage.location)),
        first_step=run.trainer.state.global_step + 1,
    )


def announce(run: TrainRun, origin: Origin) -> None:
    """All ranks: compare the requested settings with those that apply, and send the table to the driver."""
    log_start(run, origin)
    rows = engaged_rows(run)
    if run.runtime.rank == 0:
        run.runtime.emit(
            TrainStarted(
                max_steps=run.plan.max_steps,
                first_step=run.trainer.state.global_step,
                num_epochs=run.plan.num_epochs,
                attempt=run.runtime.attempt,
                rows=rows,
                num_workers=run.runtime.world_size,
                resumed_from=origin.location,
                arguments=plain_arguments(run.args),
                phases=here.known(),
            )
        )
    # All ranks: on uneven shards the table of one rank may be right and that of another wrong.
    per_rank = run.runtime.gather([row for row in rows if not row.ok])
    check_engaged(run.runtime.broadcast([row for broken in per_rank or [] for row in broken]))


def log_start(run: TrainRun, origin: Origin) -> None:
    """This rank: log what transformers logs when a training begins."""
    if not run_lines.are_wanted():
        return
    plan, args = run.plan, run.args
    facts: dict[str, object] = {
        "Num examples": plan.num_examples,
        "Num Epochs": plan.num_epochs,
        "Num update steps per epoch": plan.steps_per_epoch,
        "Instantaneous batch size per device": args.per_device_train_batch_size,
        "Total train batch size (w. parallel, distributed & accumulation)": plan.global_batch_size,
        "Gradient Accumulation steps": args.gradient_accumulation_steps,
        "Total optimization steps": plan.max_steps,
        "Number of trainable parameters": get_model_param_count(run.model, trainable_only=True),
    }
    if origin.checkpoint is not None:
        facts["Resuming from"] = origin.location
        facts["Steps that are done"] = run.trainer.state.global_step
    run_lines.say("Running training", facts)
