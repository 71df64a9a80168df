"""What one process keeps for its uploads: the repository, the queue of uploads, and which warnings were shown."""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from raytrainer.arguments.hub import repository_name
from raytrainer.errors import HubError
from raytrainer.hub.repository import Repository
from raytrainer.hub.upload_queue import UploadQueue
from raytrainer.telemetry.events import Note

if TYPE_CHECKING:
    from raytrainer.trainer_protocol import TrainerProtocol

logger = logging.getLogger(__name__)


class HubConnection:
    """The connection of one process to the repository that a trainer's arguments name.

    Args:
        trainer: The trainer, whose ``hub_model_id`` is set once the repository exists.
    """

    def __init__(self, trainer: TrainerProtocol) -> None:
        self.queue = UploadQueue()
        self.repository = Repository(
            repository_name(trainer.args),
            token=trainer.args.hub_token,
            private=trainer.args.hub_private_repo,
            repo_id=known_repo_id(trainer),
        )
        self.failed: tuple[Path, HubError] | None = None
        """The latest checkpoint, if its upload failed."""
        self._trainer = trainer
        self._warned: set[str] = set()

    def open(self) -> None:
        """Create the repository in the background, so that a bad token shows before the first save."""

        def create() -> None:
            try:
                self._trainer.hub_model_id = self.repository.open()
            except HubError as error:
                self.warn(
                    f"The repository for the checkpoints could not be opened: {error} Training goes on; each save "
                    "tries again.",
                    error,
                )

        self.queue.submit(create)

    def warn(self, text: str, error: HubError) -> None:
        """Warn the user once per error; the log file has every occurrence.

        Args:
            text: The warning.
            error: Its cause.
        """
        logger.info(text)
        if str(error) not in self._warned:
            self._warned.add(str(error))
            notify(self._trainer, text, level="warning")


def hub_connection(trainer: TrainerProtocol) -> HubConnection:
    """This process's connection to the Hub, created when it is first needed."""
    process = trainer._process
    if process.hub is None:
        process.hub = HubConnection(trainer)
    return process.hub


def known_repo_id(trainer: TrainerProtocol) -> str | None:
    """The full name of the repository that the arguments name, if it has been opened."""
    name, known = repository_name(trainer.args), trainer.hub_model_id
    return known if known is not None and f"/{known}".endswith(f"/{name}") else None


def notify(trainer: TrainerProtocol, text: str, level: str = "info") -> None:
    """Any thread: show the user a note, through the driver if the trainer runs on a worker.

    Args:
        trainer: The trainer of this process.
        text: One or two sentences.
        level: "info" or "warning".
    """
    runtime = trainer._process.runtime
    if runtime is not None:
        runtime.emit(Note(text=text, level=level))
    else:
        logger.log(logging.WARNING if level == "warning" else logging.INFO, text)
