"""Uploads that a user asks for: ``push_to_hub`` and ``save_model`` upload the output directory without checkpoints.

Rank 0 uploads; on a driver the driver does.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo

from raytrainer.arguments.hub import repository_name
from raytrainer.checkpoint.remote.fetch import fetching_explained
from raytrainer.checkpoint.snapshot import Snapshot
from raytrainer.errors import HubError
from raytrainer.hub.connection import hub_connection, known_repo_id, notify
from raytrainer.hub.file_selection import exported_files, is_exported, is_weights_file
from raytrainer.hub.repository import Repository
from raytrainer.storage.locations import is_uri
from raytrainer.storage.stage import stage_of, working_directory
from raytrainer.storage.store import ObjectStore
from raytrainer.trainer_protocol import TrainerProtocol


def open_repository(trainer: TrainerProtocol, *, token: str | None, private: bool | None) -> Repository:
    """Open the repository of a trainer, and create it if it does not exist.

    Args:
        trainer: The trainer, whose ``hub_model_id`` is set.
        token: None takes ``hub_token``.
        private: None takes ``hub_private_repo``.

    Raises:
        HubError: If the Hub does not answer, or refuses.
    """
    args = trainer.args
    repository = Repository(
        repository_name(args),
        token=token if token is not None else args.hub_token,
        private=private if private is not None else args.hub_private_repo,
        repo_id=known_repo_id(trainer),
    )
    trainer.hub_model_id = repository.open()
    return repository


def push_output_dir(
    trainer: TrainerProtocol, repository: Repository, *, message: str, revision: str | None, blocking: bool
) -> CommitInfo | Future[CommitInfo]:
    """Rank 0 or a driver: upload the output directory without its checkpoints, after the uploads already queued.

    Args:
        trainer: The trainer whose output directory is uploaded.
        repository: The target.
        message: The commit message.
        revision: The branch; None takes ``hub_revision``.
        blocking: Wait for the upload, and raise its error. Otherwise the files are copied first, since the next save
            overwrites them.

    Raises:
        HubError: If the upload failed.
    """
    output_dir = working_directory(str(trainer.args.output_dir))
    files: Mapping[str, Path]
    clean_up: Callable[[], None] = lambda: None  # noqa: E731
    if is_uri(str(trainer.args.output_dir)):
        files, clean_up = downloaded_exports(str(trainer.args.output_dir))
    else:
        files = exported_files(output_dir)
    if not blocking and not is_uri(str(trainer.args.output_dir)):
        snapshot = Snapshot(output_dir, trainer.state.global_step, links={}, copies=files)
        files, clean_up = snapshot.files, snapshot.discard
    has_weights = any(is_weights_file(name) for name in files)
    upload = functools.partial(
        repository.commit,
        files,
        message=message,
        revision=revision if revision is not None else trainer.args.hub_revision,
        replaces=lambda path: has_weights and is_weights_file(path),
        shows_progress=blocking,
    )
    future: Future[CommitInfo] = hub_connection(trainer).queue.submit(upload, clean_up=clean_up)
    return future.result() if blocking else future


def card_facts(trainer: TrainerProtocol, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Complete what ``push_to_hub`` passes to the model card.

    Args:
        trainer: Its repository's name is the default for the model's name, and its model's own tags are added.
        facts: The user's keywords for ``create_model_card``.
    """
    facts = dict(facts)
    facts.setdefault("model_name", repository_name(trainer.args).split("/")[-1])
    model_tags: list[str] | None = getattr(trainer.model, "model_tags", None)
    if model_tags is not None:
        given: str | list[str] = facts.get("tags") or []
        tags = [given] if isinstance(given, str) else list(given)
        facts["tags"] = tags + [tag for tag in model_tags if tag not in tags]
    return facts


def push_after_save(trainer: TrainerProtocol) -> None:
    """All ranks: upload after ``save_model`` if ``push_to_hub`` is set; a failed upload is a warning."""
    try:
        trainer.push_to_hub(commit_message="Model save", revision=trainer.args.hub_revision)
    except HubError as error:
        notify(
            trainer, f"The model was saved in {trainer.args.output_dir}, but not uploaded: {error}", "warning"
        )


def downloaded_exports(uri: str) -> tuple[dict[str, Path], Callable[[], None]]:
    """Download what ``push_to_hub`` uploads of an output directory that is a bucket.

    Returns:
        The files by their paths below the URI, and a function that deletes them here.
    """
    store = ObjectStore(uri)
    directory = Path(tempfile.mkdtemp(dir=stage_of(uri), prefix=".pushing-"))
    with fetching_explained(uri):
        files = {name: directory / name for name in store.list() if is_exported(name)}
        store.get_all(files)
    return files, functools.partial(shutil.rmtree, directory, ignore_errors=True)
