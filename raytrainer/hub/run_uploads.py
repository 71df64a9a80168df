"""What of a run goes to the Hub, and when.

Rank 0 uploads; a driver does when the user calls ``push_to_hub`` on it. A save hands a snapshot of the committed
checkpoint to a thread (``hub.uploads``) and goes on. Both the model in the root of the repository and the checkpoint
in a folder are one commit. Nobody but the end of training waits, and an upload that fails is a warning: the run goes
on, the checkpoint stays, and the next save tries again.

In the repository, a folder of a checkpoint holds that checkpoint and nothing else, and the root has the weights of
one model only; other files there are left alone.
"""

from __future__ import annotations

import fnmatch
import functools
import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo
from transformers.trainer_utils import HubStrategy, SaveStrategy

from raytrainer.arguments.hub import repository_name
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.checkpoint.names import LAST_CHECKPOINT_NAME, step_of
from raytrainer.checkpoint.snapshot import Snapshot, files_below, is_of_model
from raytrainer.errors import HubError
from raytrainer.hub.card import CARD_NAME
from raytrainer.hub.repository import Repository
from raytrainer.hub.uploads import Uploads
from raytrainer.runtimes.base import Command
from raytrainer.telemetry.events import Note

if TYPE_CHECKING:
    from raytrainer.loop.run import TrainRun
    from raytrainer.trainer_protocol import TrainerProtocol

logger = logging.getLogger(__name__)

WAIT_SLICE_S = 0.2
"""How long the ranks wait at the end before they look at what the driver asks for."""
STILL_WAITING_S = 30.0
"""How often the end of training says that it waits."""
BOARD_DIRECTORY = "runs"
"""TensorBoard's, in the output directory."""

_NOT_OF_MODEL = ("_*", "checkpoint-*", f"{LAST_CHECKPOINT_NAME}/*", "logs/*", "training_args.bin")
"""What of an output directory is not uploaded: the anchor's two patterns, a checkpoint that was fetched, logs of this
package, and a pickle of the anchor's in which it keeps the token."""
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")


class HubLink:
    """What one process has to do with the Hub.

    Args:
        trainer: Whose ``hub_model_id`` is set when the repository is there.
    """

    def __init__(self, trainer: TrainerProtocol) -> None:
        args = trainer.args
        self.uploads = Uploads()
        self.repository = Repository(
            repository_name(args),
            token=args.hub_token,
            private=args.hub_private_repo,
            repo_id=known_id(trainer),
        )
        self.failed: tuple[Path, HubError] | None = None
        """The checkpoint that was offered last, if it could not be uploaded."""
        self._trainer = trainer
        self._told: set[str] = set()

    def open(self) -> None:
        """Make the repository, in the background, so that a bad token is known before the first save."""

        def send() -> None:
            try:
                self._trainer.hub_model_id = self.repository.open()
            except HubError as error:
                self.warn(
                    f"The repository for the checkpoints could not be opened: {error} Training goes on; each save "
                    "tries again.",
                    error,
                )

        self.uploads.add(send)

    def offer(self, checkpoint: Path, snapshot: Snapshot, files: Mapping[str, Path], message: str) -> None:
        """Upload a checkpoint, in the background."""
        args, name = self._trainer.args, checkpoint.name

        def send() -> None:
            began = time.monotonic()
            try:
                self.repository.commit(
                    files,
                    message=message,
                    revision=args.hub_revision,
                    replaces=functools.partial(goes_stale, folder=folder_of(args, checkpoint)),
                )
            except HubError as error:
                self.failed = (checkpoint, error)
                self.warn(
                    f"{name} was not uploaded: {error} Training goes on, and {checkpoint} is whole.", error
                )
            else:
                self.failed = None
                self._trainer.hub_model_id = self.repository.repo_id
                tell(self._trainer, f"{name} is on {self.repository.url} ({time.monotonic() - began:.1f} s)")

        future = self.uploads.add(send, clean_up=snapshot.discard, must=bool(args.hub_always_push))
        future.add_done_callback(functools.partial(self._note_skipped, name))

    def _note_skipped(self, name: str, future: Future[Any]) -> None:
        if future.cancelled() and self._trainer.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            tell(
                self._trainer,
                f"{name} was not uploaded, since a newer checkpoint came while another one was on its way. "
                "hub_always_push=True uploads all of them.",
            )

    def warn(self, text: str, error: HubError) -> None:
        """Say once what is wrong; the log file has every time."""
        logger.info(text)
        if str(error) not in self._told:
            self._told.add(str(error))
            tell(self._trainer, text, level="warning")


def link_of(trainer: TrainerProtocol) -> HubLink:
    """This process's link to the Hub, made when it is first needed."""
    process = trainer._process
    if process.hub is None:
        process.hub = HubLink(trainer)
    return process.hub


def known_id(trainer: TrainerProtocol) -> str | None:
    """The whole name of the repository that the arguments name, if it has been opened."""
    name, known = repository_name(trainer.args), trainer.hub_model_id
    return known if known is not None and f"/{known}".endswith(f"/{name}") else None


def tell(trainer: TrainerProtocol, text: str, level: str = "info") -> None:
    """Any thread: say something to the user, through the driver if there is one elsewhere."""
    runtime = trainer._process.runtime
    if runtime is not None:
        runtime.emit(Note(text=text, level=level))
    else:
        logger.log(logging.WARNING if level == "warning" else logging.INFO, text)


def uploads_saves(args: TrainingArguments) -> bool:
    """Whether checkpoints are uploaded while training goes on."""
    return bool(args.push_to_hub) and args.hub_strategy != HubStrategy.END


def folder_of(args: TrainingArguments, checkpoint: Path) -> str | None:
    """Where in the repository a checkpoint goes; None where only its model does."""
    if args.hub_strategy == HubStrategy.CHECKPOINT:
        return LAST_CHECKPOINT_NAME
    return checkpoint.name if args.hub_strategy == HubStrategy.ALL_CHECKPOINTS else None


def goes_stale(path: str, folder: str | None) -> bool:
    """Whether a file of the repository is replaced by an upload as a whole, and so goes if it is not part of it."""
    return _WEIGHTS.fullmatch(path) is not None or (folder is not None and path.startswith(f"{folder}/"))


# ---- while training goes on --------------------------------------------------------------------------------------


def begin_uploads(run: TrainRun, goes_on_from: Path | None) -> None:
    """All ranks: open the repository, when training starts.

    Args:
        run: The run.
        goes_on_from: The checkpoint of an earlier attempt of this run. Its upload may have died with that attempt; if
            it did not, uploading it again changes nothing.
    """
    if run.runtime.rank != 0 or not uploads_saves(run.args):
        return
    run.trainer._process.hub = None  # nothing of an earlier run, or of its arguments
    link_of(run.trainer).open()
    if goes_on_from is not None:
        upload_checkpoint(run.trainer, goes_on_from)


def upload_checkpoint(trainer: TrainerProtocol, checkpoint: Path) -> None:
    """Rank 0: offer a committed checkpoint to the Hub; returns as soon as its files are held."""
    args, state = trainer.args, trainer.state
    trainer.callback_handler.on_push_begin(args, state, trainer.control)
    step = step_of(checkpoint) or state.global_step
    link = link_of(trainer)
    saved = files_below(checkpoint)
    beside = files_that_go_along(checkpoint.parent)
    try:
        snapshot = Snapshot(
            checkpoint.parent,
            step,
            links={f"checkpoint/{name}": path for name, path in saved.items()},
            copies={f"beside/{name}": path for name, path in beside.items()},
        )
    except OSError as error:
        link.warn(
            f"{checkpoint.name} is not uploaded, since its files could not be held for it: {error}. Training goes on.",
            HubError(str(error)),
        )
        return
    held = snapshot.files
    files = {name: held[f"checkpoint/{name}"] for name in saved if is_of_model(name)}
    files |= {name: held[f"beside/{name}"] for name in beside}
    folder = folder_of(args, checkpoint)
    if folder is not None:
        files |= {f"{folder}/{name}": held[f"checkpoint/{name}"] for name in saved}
    is_by_epoch = args.save_strategy == SaveStrategy.EPOCH
    when = f"epoch {int(state.epoch or 0)}" if is_by_epoch else f"step {step}"
    link.offer(checkpoint, snapshot, files, f"Training in progress, {when}")


def files_that_go_along(directory: Path) -> dict[str, Path]:
    """What of an output directory is uploaded with each checkpoint: the card, and TensorBoard's files."""
    found = {
        f"{BOARD_DIRECTORY}/{name}": path for name, path in files_below(directory / BOARD_DIRECTORY).items()
    }
    if (directory / CARD_NAME).is_file():
        found[CARD_NAME] = directory / CARD_NAME
    return found


def finish_uploads(run: TrainRun) -> None:
    """All ranks, at the end of training: wait for the uploads, and try the newest once more if it failed.

    Ranks wait in slices, so that no collective lasts as long as an upload. Ctrl-C ends the wait and nothing else.
    """
    if not uploads_saves(run.args):
        return
    link = run.trainer._process.hub if run.runtime.rank == 0 else None
    if not wait_for_uploads(run, link):
        return
    failed = link.failed if link is not None else None
    again = failed is not None and not failed[1].is_lasting and failed[0].is_dir()
    if again and failed is not None:
        upload_checkpoint(run.trainer, failed[0])
    if run.runtime.agree([int(again)])[0]:
        wait_for_uploads(run, link)
    if link is not None and link.failed is not None:
        checkpoint, error = link.failed
        tell(
            run.trainer,
            f"The Hub does not have {checkpoint.name}, the newest checkpoint: {error} It is in {checkpoint}.",
            level="warning",
        )


def wait_for_uploads(run: TrainRun, link: HubLink | None) -> bool:
    """All ranks: wait until rank 0 has no upload left.

    Returns:
        Whether none is left; False if the user does not want to wait.
    """
    said_at = time.monotonic()
    while True:
        is_busy = link is not None and not link.uploads.wait(WAIT_SLICE_S)
        command = Command.NONE if run.interrupted else run.runtime.command()
        busy, asked = run.runtime.agree([int(is_busy), int(command)])
        if not busy:
            return True
        if asked >= Command.STOP_AFTER_SAVE:
            if link is not None:
                link.uploads.cancel_waiting()
                tell(
                    run.trainer,
                    "The end of training does not wait for the upload to the Hub.",
                    level="warning",
                )
            return False
        if link is not None and time.monotonic() - said_at > STILL_WAITING_S:
            said_at = time.monotonic()
            tell(run.trainer, f"Waiting for an upload to {link.repository.url}; Ctrl-C ends the wait.")


# ---- what a user calls -------------------------------------------------------------------------------------------


def open_repository(trainer: TrainerProtocol, *, token: str | None, private: bool | None) -> Repository:
    """This process's way to the repository of a trainer; makes it if nothing has.

    Raises:
        HubError: If the Hub does not answer, or refuses.
    """
    args = trainer.args
    repository = Repository(
        repository_name(args),
        token=token if token is not None else args.hub_token,
        private=private if private is not None else args.hub_private_repo,
        repo_id=known_id(trainer),
    )
    trainer.hub_model_id = repository.open()
    return repository


def push_output_dir(
    trainer: TrainerProtocol, repository: Repository, *, message: str, revision: str | None, blocking: bool
) -> CommitInfo | Future[CommitInfo]:
    """Rank 0 or a driver: upload the output directory without its checkpoints, after what is on its way.

    Args:
        trainer: Whose directory it is.
        repository: Where it goes.
        message: Of the commit.
        revision: The branch.
        blocking: Wait for it, and raise what goes wrong. Otherwise the files are copied first, since the next save
            writes over them.

    Raises:
        HubError: If the upload failed.
    """
    directory = Path(str(trainer.args.output_dir))
    files: Mapping[str, Path] = {
        name: path for name, path in files_below(directory).items() if is_uploaded(name)
    }
    clean_up: Callable[[], None] = lambda: None  # noqa: E731
    if not blocking:
        snapshot = Snapshot(directory, trainer.state.global_step, links={}, copies=files)
        files, clean_up = snapshot.files, snapshot.discard
    has_weights = any(_WEIGHTS.fullmatch(name) for name in files)
    send = functools.partial(
        repository.commit,
        files,
        message=message,
        revision=revision if revision is not None else trainer.args.hub_revision,
        replaces=lambda path: has_weights and goes_stale(path, None),
        shows_progress=blocking,
    )
    future: Future[CommitInfo] = link_of(trainer).uploads.add(send, clean_up=clean_up)
    return future.result() if blocking else future


def is_uploaded(name: str) -> bool:
    """Whether a file of an output directory, by its path in it, belongs to what ``push_to_hub`` uploads."""
    is_hidden = any(part.startswith(".") for part in name.split("/"))
    return not is_hidden and not any(fnmatch.fnmatchcase(name, pattern) for pattern in _NOT_OF_MODEL)


def card_facts(trainer: TrainerProtocol, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What ``push_to_hub`` tells the model card: the user's words, the repository's name, the model's own tags."""
    facts = dict(facts)
    facts.setdefault("model_name", repository_name(trainer.args).split("/")[-1])
    model_tags = getattr(trainer.model, "model_tags", None)
    if model_tags is not None:
        tags = facts.get("tags") or []
        tags = [tags] if isinstance(tags, str) else list(tags)
        facts["tags"] = tags + [tag for tag in model_tags if tag not in tags]
    return facts


def push_after_save(trainer: TrainerProtocol) -> None:
    """All ranks: what ``save_model`` does when ``push_to_hub`` is set. The model is saved, whatever the Hub says."""
    try:
        trainer.push_to_hub(commit_message="Model save", revision=trainer.args.hub_revision)
    except HubError as error:
        tell(
            trainer, f"The model was saved in {trainer.args.output_dir}, but not uploaded: {error}", "warning"
        )
