"""How a checkpoint is committed to a bucket: completely or not at all, whichever process dies at whatever moment.

Each rank writes its files into a directory of its own on its machine, in the order and with the agreements of
``checkpoint.commit``. When all have written, rank 0 makes room in the bucket: an older checkpoint of the same step is
copied aside and deleted, and the new one is marked as incomplete. Then every rank hashes and uploads its files; rank 0
compares what the bucket lists with the hashed files and writes the manifest, which is the commit. Before the
manifest there is no new checkpoint, after it there is a complete one. ``remote.sweep`` settles what a kill leaves.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import shutil
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from pathlib import Path

from raytrainer.checkpoint.commit import (
    CheckpointFacts,
    WritePart,
    make_empty,
    make_manifest,
    record_files,
    relative_names,
)
from raytrainer.checkpoint.durable_writes import free_space, is_storage_error
from raytrainer.checkpoint.manifest import FileRecord, Manifest
from raytrainer.checkpoint.names import (
    INCOMPLETE_NAME,
    MANIFEST_NAME,
    checkpoint_name,
    replaced_name,
    writing_name,
)
from raytrainer.checkpoint.ownership import place_of_earlier
from raytrainer.checkpoint.rank_agreement import Agreement
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
from raytrainer.checkpoint.remote.fetch import keep_as_copy
from raytrainer.checkpoint.run_storage import Committed
from raytrainer.checkpoint.save_phases import Laps
from raytrainer.errors import CheckpointError
from raytrainer.runtimes.base import Runtime
from raytrainer.storage.retry import Patience
from raytrainer.storage.stage import VARIABLE
from raytrainer.storage.store import ObjectStore

logger = logging.getLogger(__name__)

LIST_NAME = "replaced.json"
"""The last object of a checkpoint that was copied aside: its files and their sizes."""
_WHEN_ALL_IS_LOST = Patience(seconds=5.0)
"""For undoing a save that failed, when the store has failed for long already; the next sweep does what is left."""


def commit_to_bucket(
    store: ObjectStore,
    stage: Path,
    step: int,
    *,
    runtime: Runtime,
    write_parts: Sequence[WritePart],
    facts: CheckpointFacts,
    keep_files: bool,
) -> Committed:
    """All ranks: write a checkpoint and commit it.

    Args:
        store: Of the run's URI.
        stage: This process's directory for it.
        step: The optimizer step that is done.
        runtime: Where this rank runs.
        write_parts: As in ``commit_checkpoint``. Each rank's directory has its own files only.
        facts: What the manifest says about the run; rank 0's counts.
        keep_files: Leave this rank's files in the stage, under the name of the checkpoint.

    Raises:
        CheckpointError: As ``commit_checkpoint``.
    """
    name = checkpoint_name(step)
    location = store.location(name)
    target = stage / writing_name(step, runtime.run_id, runtime.attempt)
    ranks = Agreement(runtime, f"{location} was not saved")
    records: list[dict[str, FileRecord]] | None = None

    def make_directory() -> None:
        with _stage_explained(location, target, always=True):
            make_empty(target)

    def write(write_part: WritePart) -> None:
        with _stage_explained(location, target):
            relative_names(target, write_part(target))

    def upload() -> dict[str, FileRecord]:
        with _stage_explained(location, target, always=True):
            recorded = record_files(target, shares[runtime.rank])
        with _bucket_explained(location):
            store.put_all({f"{name}/{file}": target / file for file in recorded})
        return recorded

    def publish() -> None:
        with _bucket_explained(location):
            _publish(store, name, make_manifest(step, runtime, facts, records or []))

    laps = Laps()
    with _removed(target):
        ranks.on_all(make_directory)
        for write_part in write_parts:
            ranks.on_all(functools.partial(write, write_part))
        claims = ranks.on_all(functools.partial(_names_below, target))
        shares = runtime.broadcast(_share_out(claims or []))
        with _undone_on_error(store, name, step, is_owner=runtime.rank == 0) as aside:
            laps.end("writing")
            ranks.on_rank_0(functools.partial(_make_room, store, name, aside, location))
            records = ranks.on_all(upload)
            laps.end("upload")
            ranks.on_rank_0(publish)
            laps.end("commit")
        if runtime.rank == 0:
            settle_replaced(store, aside, name, {runtime.run_id, *facts.continues})
        if keep_files:
            _keep(target, stage / name)
    size = sum(record.size for part in records or [] for record in part.values())
    return Committed(location=location, num_bytes=size, phases=laps.phases)


def _names_below(target: Path) -> list[str]:
    return sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())


def _share_out(claims: list[list[str]]) -> list[list[str]]:
    """Rank 0: which rank uploads which files: each its own, and of those that several have, the first of them."""
    taken: set[str] = set()
    shares: list[list[str]] = []
    for claim in claims:
        shares.append([name for name in claim if name not in taken])
        taken.update(claim)
    return shares


def _make_room(store: ObjectStore, name: str, aside: str, location: str) -> None:
    """Rank 0: move aside what has the name, and mark the name as incomplete."""
    with _bucket_explained(location):
        contents = contents_of(store, name)
        if contents.files and not contents.is_partial:
            files = {file: size for file, size in contents.files.items() if file != INCOMPLETE_NAME}
            copy_files(store, name, aside, files)
            store.put_text(f"{aside}/{LIST_NAME}", json.dumps(files))
        remove(store, name)
        mark(store, name)


def copy_files(store: ObjectStore, source: str, target: str, files: Iterable[str]) -> None:
    """Copy the files of a checkpoint to another folder, its manifest last."""
    for file in sorted(files, key=lambda one: one == MANIFEST_NAME):
        store.copy(f"{source}/{file}", f"{target}/{file}")


def _publish(store: ObjectStore, name: str, manifest: Manifest) -> None:
    """Rank 0: the manifest, if the bucket has every file; then the mark goes."""
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


@contextlib.contextmanager
def _undone_on_error(store: ObjectStore, name: str, step: int, *, is_owner: bool) -> Generator[str]:
    """Rank 0: if a save fails or is interrupted, leave nothing of it, and bring back what it should have replaced.

    Yields:
        The folder for the checkpoint that is replaced.
    """
    aside = replaced_name(step)
    try:
        yield aside
    except BaseException:
        if is_owner:
            hasty = store.with_patience(_WHEN_ALL_IS_LOST)
            try:
                settle_aside(hasty, aside, name)
                if contents_of(hasty, name).is_partial:
                    remove(hasty, name)
            except OSError as error:
                logger.warning(
                    "What a failed save left in %s is deleted later: %s", store.location(name), error
                )
        raise


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


def _keep(target: Path, kept: Path) -> None:
    shutil.rmtree(kept, ignore_errors=True)
    target.rename(kept)
    keep_as_copy(kept)


@contextlib.contextmanager
def _removed(target: Path) -> Generator[None]:
    """This rank: its files are not needed after the save, however it ends."""
    try:
        yield
    finally:
        shutil.rmtree(target, ignore_errors=True)


@contextlib.contextmanager
def _stage_explained(location: str, target: Path, *, always: bool = False) -> Generator[None]:
    """Turn an error of this machine's disk into one that says what is to be done.

    Args:
        location: The checkpoint that is being saved.
        target: Where its files are staged.
        always: Treat every OSError as one of storage; by default a user's code may have raised it for its own reasons.
    """
    try:
        yield
    except Exception as error:
        if not is_storage_error(error) and not (always and isinstance(error, OSError)):
            raise
        raise CheckpointError(
            f"{location} could not be written, because its files are staged in {target.parent} first "
            f"({free_space(target)}): {type(error).__name__}: {error}. Free space there, or set {VARIABLE} to a "
            "directory with more. Earlier checkpoints are untouched."
        ) from error


@contextlib.contextmanager
def _bucket_explained(location: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{location} could not be uploaded: {error}. Check the network, and that the credentials of this machine "
            "are valid and may read, write, list and delete there. Earlier checkpoints are untouched."
        ) from error
