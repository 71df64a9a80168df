"""What is done in a bucket to commit a checkpoint, step by step: by a rank, or by the process that writes beside it.

In this order: ``make_room``, for rank 0; ``upload``, of each rank's files; ``publish`` and ``settle_replaced``, for
rank 0. Each begins when the one before has ended on all ranks; the caller sees to that. ``undo`` follows a failure.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Generator, Iterable, Mapping
from pathlib import Path

from raytrainer.checkpoint.manifest import Manifest
from raytrainer.checkpoint.names import INCOMPLETE_NAME, MANIFEST_NAME
from raytrainer.checkpoint.ownership import place_of_earlier
from raytrainer.checkpoint.remote.contents import (
    check_sizes,
    contents_of,
    discard,
    mark,
    read_manifest_of,
    remove,
    run_of,
    unmark,
)
from raytrainer.errors import CheckpointError
from raytrainer.storage.retry import Patience
from raytrainer.storage.store import ObjectStore

logger = logging.getLogger(__name__)

LIST_NAME = "replaced.json"
"""The last object of a checkpoint that was copied aside: its files and their sizes."""
_WHEN_ALL_IS_LOST = Patience(seconds=5.0)
"""For undoing a save that failed, when the store has failed for long already; the next sweep does what is left."""


def make_room(store: ObjectStore, name: str, aside: str) -> None:
    """Move aside what has the name of a checkpoint, and mark the name as incomplete.

    Args:
        store: Of the run's URI.
        name: The folder of the checkpoint.
        aside: The folder for what is there.

    Raises:
        CheckpointError: If the store fails.
    """
    with bucket_explained(store.location(name)):
        contents = contents_of(store, name)
        if contents.files and not contents.is_partial:
            files = {file: size for file, size in contents.files.items() if file != INCOMPLETE_NAME}
            copy_files(store, name, aside, files)
            store.put_text(f"{aside}/{LIST_NAME}", json.dumps(files))
        remove(store, name)
        mark(store, name)


def upload(store: ObjectStore, name: str, target: Path, files: Iterable[str]) -> None:
    """Upload files of a checkpoint.

    Args:
        store: Of the run's URI.
        name: The folder of the checkpoint.
        target: Has the files on this machine.
        files: Their names.

    Raises:
        CheckpointError: If the store fails.
    """
    with bucket_explained(store.location(name)):
        store.put_all({f"{name}/{file}": target / file for file in files})


def copy_files(store: ObjectStore, source: str, target: str, files: Iterable[str]) -> None:
    """Copy the files of a checkpoint to another folder, its manifest last."""
    for file in sorted(files, key=lambda one: one == MANIFEST_NAME):
        store.copy(f"{source}/{file}", f"{target}/{file}")


def publish(store: ObjectStore, name: str, manifest: Manifest) -> None:
    """Write the manifest, if the bucket has every file; then the mark goes.

    Raises:
        CheckpointError: If the store fails, or lacks a file.
    """
    with bucket_explained(store.location(name)):
        check_sizes(store, name, manifest, contents_of(store, name))
        store.put_text(f"{name}/{MANIFEST_NAME}", manifest.to_json())
        try:
            unmark(store, name)
        except OSError as error:  # with a manifest the mark has no effect
            logger.warning("%s could not be deleted: %s", store.location(f"{name}/{INCOMPLETE_NAME}"), error)


def restore(store: ObjectStore, aside: str, name: str, files: Iterable[str]) -> None:
    """Give a checkpoint that was moved aside its place back.

    Args:
        store: Has both.
        aside: The folder that it was moved to.
        name: The folder that it was in.
        files: What it consists of.
    """
    remove(store, name)
    mark(store, name)
    copy_files(store, aside, name, files)
    unmark(store, name)
    store.delete_folder(aside)


def undo(store: ObjectStore, name: str, aside: str) -> None:
    """After a save that failed or was interrupted: leave nothing of it, and bring back what it should have replaced.

    Args:
        store: Of the run's URI.
        name: The folder of the checkpoint.
        aside: As of ``make_room``.
    """
    hasty = store.with_patience(_WHEN_ALL_IS_LOST)
    try:
        settle_aside(hasty, aside, name)
        if contents_of(hasty, name).is_partial:
            remove(hasty, name)
    except OSError as error:
        logger.warning("What a failed save left in %s is deleted later: %s", store.location(name), error)


def settle_aside(store: ObjectStore, aside: str, name: str) -> bool:
    """Bring back a checkpoint that was moved aside, unless one has taken its place; then delete it.

    Returns:
        Whether it was brought back.
    """
    found = contents_of(store, aside).files
    listed: dict[str, int] = json.loads(store.get_text(f"{aside}/{LIST_NAME}")) if LIST_NAME in found else {}
    there = contents_of(store, name)
    was_taken = bool(there.files) and not there.is_partial
    is_whole = bool(listed) and all(found.get(file) == size for file, size in listed.items())
    if is_whole and not was_taken:
        restore(store, aside, name, listed)
        return True
    if was_taken and is_whole:
        settle_replaced(store, aside, name, _owners_of(store, name))
    else:
        store.delete_folder(aside)
    return False


def _owners_of(store: ObjectStore, name: str) -> Collection[str]:
    try:
        return read_manifest_of(store, name).owners
    except CheckpointError:
        return ()


def settle_replaced(store: ObjectStore, aside: str, name: str, owners: Collection[str]) -> None:
    """Delete a checkpoint that was copied aside if its owners replaced it; otherwise keep it in ``earlier-runs``.

    Args:
        store: Has both.
        aside: The folder that it was copied to.
        name: The folder that it was in.
        owners: The run that took its name, and those that this one goes on with.
    """
    try:
        contents = contents_of(store, aside)
        # With the mark it is being deleted, and was kept before if it was to be.
        if LIST_NAME in contents.files and INCOMPLETE_NAME not in contents.files:
            run_id = run_of(store, aside, contents)
            if run_id not in owners:
                files = {file: size for file, size in contents.files.items() if file != LIST_NAME}
                _keep_earlier(store, aside, name, run_id, files)
    except OSError as error:  # the next sweep tries again
        logger.warning(
            "%s of an earlier run could not be kept elsewhere yet: %s", store.location(aside), error
        )
        return
    discard(store, aside)


def _keep_earlier(
    store: ObjectStore, aside: str, name: str, run_id: str | None, files: Mapping[str, int]
) -> None:
    def is_taken(place: str) -> bool:
        there = contents_of(store, place).files
        if MANIFEST_NAME in there and MANIFEST_NAME in files:
            return store.get_text(f"{place}/{MANIFEST_NAME}") != store.get_text(f"{aside}/{MANIFEST_NAME}")
        # A part of the same files is what a kill left of this copy; it is overwritten.
        return bool(there) and not there.items() < files.items()

    kept = place_of_earlier(run_id, name, is_taken)
    copy_files(store, aside, kept, files)
    logger.warning(
        "%s of an earlier run is in %s now; this run saved one of that name.", name, store.location(kept)
    )


@contextlib.contextmanager
def bucket_explained(location: str) -> Generator[None]:
    """Turn an error of the store into one that says what could not be saved, and what is to be done."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{location} could not be uploaded: {error}. Check the network, and that the credentials of this machine "
            "are valid and may read, write, list and delete there. Earlier checkpoints are untouched."
        ) from error
