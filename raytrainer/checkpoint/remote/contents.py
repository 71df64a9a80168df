"""What a bucket has of a checkpoint, by names and sizes alone; nothing is downloaded but manifests.

A bucket has no renames, so the files of a checkpoint are written where they stay. While they are being written or
deleted, an object marks the checkpoint (``names.INCOMPLETE_NAME``): with the marker and without a manifest it is no
checkpoint. The marker is the first object that is written and the last that is deleted; the manifest is the last that
is written and the first that is deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raytrainer.checkpoint.manifest import Manifest, manifest_from
from raytrainer.checkpoint.names import INCOMPLETE_NAME, LOOP_STATE_NAME, MANIFEST_NAME, STATE_NAME, step_of
from raytrainer.checkpoint.ownership import UNNAMED
from raytrainer.errors import CheckpointError
from raytrainer.storage.store import ObjectStore

logger = logging.getLogger(__name__)

_MARKER_TEXT = "This checkpoint is being written or deleted, or that was interrupted. It does not count.\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The objects of one checkpoint."""

    files: dict[str, int]
    """Name -> size [bytes]."""

    @property
    def is_ours(self) -> bool:
        """Whether there is a manifest, intact or not; or a file that nobody but this package writes."""
        return bool({MANIFEST_NAME, LOOP_STATE_NAME} & self.files.keys())

    @property
    def is_partial(self) -> bool:
        """Whether it is being written or deleted, or was when a process was killed."""
        return INCOMPLETE_NAME in self.files and MANIFEST_NAME not in self.files


def is_complete(contents: Contents) -> bool:
    """Whether objects are those of a checkpoint that counts, of ours or of transformers."""
    return not contents.is_partial and bool({MANIFEST_NAME, STATE_NAME} & contents.files.keys())


def contents_of(store: ObjectStore, name: str) -> Contents:
    """List the objects of a checkpoint; none if there is no such checkpoint."""
    return Contents(files=store.list(name))


def checkpoint_names(store: ObjectStore) -> list[str]:
    """The folders that are named like checkpoints, by ascending step; complete or not."""
    found = [(step, name) for name in store.folders() if (step := step_of(Path(name))) is not None]
    return [name for _, name in sorted(found)]


def complete_steps(objects: Iterable[str]) -> list[int]:
    """The steps of the checkpoints that count among the objects of a run, ascending.

    Args:
        objects: Names relative to the run.
    """
    files: dict[int, dict[str, int]] = {}
    for name in objects:
        folder, _, file = name.partition("/")
        step = step_of(Path(folder))
        if step is not None and file:
            files.setdefault(step, {})[file] = 0
    return sorted(step for step, its in files.items() if is_complete(Contents(files=its)))


def read_manifest_of(store: ObjectStore, name: str) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    return manifest_from(lambda: store.get_text(f"{name}/{MANIFEST_NAME}"), store.location(name))


def run_of(store: ObjectStore, name: str, contents: Contents) -> str | None:
    """The run that wrote a checkpoint; None if it was ours and its manifest cannot be read."""
    if not contents.is_ours:
        return UNNAMED
    try:
        return read_manifest_of(store, name).run_id
    except CheckpointError:
        return None


def check_sizes(store: ObjectStore, name: str, manifest: Manifest, contents: Contents) -> None:
    """Check that the bucket has every file of a manifest with its size; hashes are checked when files are here.

    Args:
        store: Has the checkpoint.
        name: Its folder.
        manifest: Lists the files.
        contents: What the bucket has.

    Raises:
        CheckpointError: Names the first file that is missing or has another size.
    """
    for file, record in manifest.files.items():
        location = store.location(f"{name}/{file}")
        size = contents.files.get(file)
        if size is None:
            raise CheckpointError(f"{location} is missing.")
        if size != record.size:
            word = "truncated" if size < record.size else "too long"
            raise CheckpointError(
                f"{location} is {word}: it has {size:,} bytes, its manifest says {record.size:,}."
            )


def mark(store: ObjectStore, name: str) -> None:
    """Mark a checkpoint as incomplete, which has an effect while it has no manifest."""
    store.put_text(f"{name}/{INCOMPLETE_NAME}", _MARKER_TEXT)


def unmark(store: ObjectStore, name: str) -> None:
    """Take the mark away."""
    store.delete(f"{name}/{INCOMPLETE_NAME}")


def remove(store: ObjectStore, name: str) -> None:
    """Delete a checkpoint, or what there is of one; it never counts while half of it is there.

    Raises:
        OSError: If the store fails. What is left is marked, and the next sweep deletes it.
    """
    contents = contents_of(store, name)
    if not contents.files:
        return
    if contents.files.keys() - {INCOMPLETE_NAME}:
        mark(store, name)
    if MANIFEST_NAME in contents.files:
        store.delete(f"{name}/{MANIFEST_NAME}")
    store.delete_all(
        f"{name}/{file}" for file in contents.files if file not in (MANIFEST_NAME, INCOMPLETE_NAME)
    )
    store.delete_folder(name)


def discard(store: ObjectStore, name: str) -> None:
    """Delete a checkpoint; if the store fails, with a warning: one too many is no reason to stop training."""
    try:
        remove(store, name)
    except OSError as error:
        logger.warning("%s could not be deleted and takes space: %s", store.location(name), error)
