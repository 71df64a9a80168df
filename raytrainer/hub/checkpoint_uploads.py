"""When checkpoints are uploaded during training, and how training ends while an upload is running.

Rank 0 uploads. A save hands a snapshot of the committed checkpoint to a background thread (``hub.upload_queue``) and
goes on. The model in the root of the repository and the checkpoint in a folder are one commit. Only the end of
training waits, and an upload that fails is a warning: the run goes on, the checkpoint stays, and the next save tries
again.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import HubStrategy, SaveStrategy

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.checkpoint.names import step_of
from raytrainer.checkpoint.snapshot import Snapshot, files_below, is_of_model
from raytrainer.errors import HubError
from raytrainer.hub.connection import HubConnection, hub_connection, notify
from raytrainer.hub.file_selection import checkpoint_folder, companion_files, is_replaced_by_checkpoint
from raytrainer.runtimes.base import Command

if TYPE_CHECKING:
    from raytrainer.loop.run import TrainRun
    from raytrainer.trainer_protocol import TrainerProtocol

POLL_INTERVAL_S = 0.2
"""How long the ranks wait at the end of training before they check for a command of the driver."""
REMINDER_INTERVAL_S = 30.0
"""How often the user is told that the end of training waits for an upload."""


def uploads_checkpoints(args: TrainingArguments) -> bool:
    """Whether checkpoints are uploaded during training."""
    return bool(args.push_to_hub) and args.hub_strategy != HubStrategy.END


def begin_uploads(run: TrainRun, resumed_from: Path | None) -> None:
    """All ranks: open the repository when training starts.

    Args:
        run: The run.
        resumed_from: The checkpoint of an earlier attempt of this run. Its upload may have died with that attempt; if
            it did not, uploading it again changes nothing.
    """
    if run.runtime.rank != 0 or not uploads_checkpoints(run.args):
        return
    run.trainer._process.hub = None  # an earlier run may have had other arguments
    hub_connection(run.trainer).open()
    if resumed_from is not None:
        upload_checkpoint(run.trainer, resumed_from)


def upload_checkpoint(trainer: TrainerProtocol, checkpoint: Path) -> None:
    """Rank 0: queue the upload of a committed checkpoint; returns as soon as its files are in a snapshot.

    Args:
        trainer: The trainer of this process.
        checkpoint: Directory of the checkpoint.
    """
    args, state = trainer.args, trainer.state
    handler: Any = trainer.callback_handler
    handler.on_push_begin(args, state, trainer.control)
    step = step_of(checkpoint) or state.global_step
    connection = hub_connection(trainer)
    try:
        snapshot, files = _take_snapshot(args, checkpoint, step)
    except OSError as error:
        connection.warn(
            f"{checkpoint.name} is not uploaded, since a snapshot of its files could not be made: {error}. Training "
            "goes on.",
            HubError(str(error)),
        )
        return
    is_by_epoch = args.save_strategy == SaveStrategy.EPOCH
    when = f"epoch {int(state.epoch or 0)}" if is_by_epoch else f"step {step}"
    upload = functools.partial(
        _commit_checkpoint, trainer, connection, checkpoint, files, f"Training in progress, {when}"
    )
    future = connection.queue.submit(
        upload, clean_up=snapshot.discard, is_required=bool(args.hub_always_push)
    )
    future.add_done_callback(functools.partial(_note_if_skipped, trainer, checkpoint.name))


def _take_snapshot(args: TrainingArguments, checkpoint: Path, step: int) -> tuple[Snapshot, dict[str, Path]]:
    """A snapshot of what is uploaded with a checkpoint, and its files by their paths in the repository."""
    saved = files_below(checkpoint)
    companions = companion_files(checkpoint.parent)
    snapshot = Snapshot(
        checkpoint.parent,
        step,
        links={f"checkpoint/{name}": path for name, path in saved.items()},
        copies={f"companions/{name}": path for name, path in companions.items()},
    )
    files = {name: snapshot.files[f"checkpoint/{name}"] for name in saved if is_of_model(name)}
    files |= {name: snapshot.files[f"companions/{name}"] for name in companions}
    folder = checkpoint_folder(args, checkpoint)
    if folder is not None:
        files |= {f"{folder}/{name}": snapshot.files[f"checkpoint/{name}"] for name in saved}
    return snapshot, files


def _commit_checkpoint(
    trainer: TrainerProtocol,
    connection: HubConnection,
    checkpoint: Path,
    files: Mapping[str, Path],
    message: str,
) -> None:
    """In the background: upload the snapshot of a checkpoint, and say how that went."""
    args, repository = trainer.args, connection.repository
    started_at = time.monotonic()
    try:
        repository.commit(
            files,
            message=message,
            revision=args.hub_revision,
            replaces=functools.partial(is_replaced_by_checkpoint, folder=checkpoint_folder(args, checkpoint)),
        )
    except HubError as error:
        connection.failed = (checkpoint, error)
        connection.warn(
            f"{checkpoint.name} was not uploaded: {error} Training goes on, and {checkpoint} is complete.",
            error,
        )
    else:
        connection.failed = None
        trainer.hub_model_id = repository.repo_id
        seconds = time.monotonic() - started_at
        notify(trainer, f"{checkpoint.name} is on {repository.url} ({seconds:.1f} s)")


def _note_if_skipped(trainer: TrainerProtocol, name: str, future: Future[Any]) -> None:
    if future.cancelled() and trainer.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
        notify(
            trainer,
            f"{name} was not uploaded, since a newer checkpoint was saved while another upload was running. "
            "hub_always_push=True uploads all of them.",
        )


def finish_uploads(run: TrainRun) -> None:
    """All ranks, at the end of training: wait for the uploads, and retry the latest one once if it failed.

    Ranks wait in short intervals, so that no collective lasts as long as an upload. Ctrl-C ends only the wait.
    """
    if not uploads_checkpoints(run.args):
        return
    connection = run.trainer._process.hub if run.runtime.rank == 0 else None
    if not _wait_for_uploads(run, connection):
        return
    failed = connection.failed if connection is not None else None
    retries = failed is not None and not failed[1].is_lasting and failed[0].is_dir()
    if retries and failed is not None:
        upload_checkpoint(run.trainer, failed[0])
    if run.runtime.agree([int(retries)])[0]:
        _wait_for_uploads(run, connection)
    if connection is not None and connection.failed is not None:
        checkpoint, error = connection.failed
        notify(
            run.trainer,
            f"The Hub does not have {checkpoint.name}, the latest checkpoint: {error} It is in {checkpoint}.",
            level="warning",
        )


def _wait_for_uploads(run: TrainRun, connection: HubConnection | None) -> bool:
    """All ranks: wait until rank 0 has no upload left; False if the user does not want to wait."""
    reminded_at = time.monotonic()
    while True:
        is_busy = connection is not None and not connection.queue.wait(POLL_INTERVAL_S)
        command = Command.NONE if run.interrupted else run.runtime.command()
        busy, command_of_any = run.runtime.agree([int(is_busy), int(command)])
        if not busy:
            return True
        if command_of_any >= Command.STOP_AFTER_SAVE:
            if connection is not None:
                connection.queue.cancel_pending()
                notify(
                    run.trainer,
                    "The end of training does not wait for the upload to the Hub.",
                    level="warning",
                )
            return False
        if connection is not None and time.monotonic() - reminded_at > REMINDER_INTERVAL_S:
            reminded_at = time.monotonic()
            notify(
                run.trainer, f"Waiting for an upload to {connection.repository.url}; Ctrl-C ends the wait."
            )
