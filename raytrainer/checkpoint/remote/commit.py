"""How a checkpoint is committed to a bucket: completely or not at all, whichever process dies at whatever moment.

Each rank writes its files into a directory of its own on its machine, in the order and with the agreements of
``checkpoint.commit``. When all have written, rank 0 makes room in the bucket: an older checkpoint of the same step is
copied aside and deleted, and the new one is marked as incomplete. Then every rank hashes and uploads its files; rank 0
compares what the bucket lists with the hashed files and writes the manifest, which is the commit. Before the
manifest there is no new checkpoint, after it there is a complete one. ``remote.sweep`` settles what a kill leaves.

Here is what the ranks agree on, and what they write. What is done in the bucket is in ``remote.steps``, because a save
beside training does the same in another process.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Generator, Sequence
from pathlib import Path

from raytrainer.checkpoint.commit import (
    CheckpointFacts,
    Committed,
    WritePart,
    make_empty,
    make_manifest,
    record_files,
    relative_names,
)
from raytrainer.checkpoint.durable_writes import free_space, is_storage_error
from raytrainer.checkpoint.manifest import FileRecord
from raytrainer.checkpoint.names import checkpoint_name, replaced_name, writing_name
from raytrainer.checkpoint.rank_agreement import Agreement
from raytrainer.checkpoint.remote.fetch import keep_as_copy
from raytrainer.checkpoint.remote.steps import make_room, publish, settle_replaced, undo, upload
from raytrainer.checkpoint.save_phases import Laps
from raytrainer.errors import CheckpointError
from raytrainer.runtimes.base import Runtime
from raytrainer.storage.stage import VARIABLE
from raytrainer.storage.store import ObjectStore


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

    def record_and_upload() -> dict[str, FileRecord]:
        with stage_explained(location, target, always=True):
            recorded = record_files(target, share)
        upload(store, name, target, recorded)
        return recorded

    def commit() -> None:
        publish(store, name, make_manifest(step, runtime, facts, records or []))

    laps = Laps()
    with _removed(target):
        share = write_shares(target, location, ranks, runtime=runtime, write_parts=write_parts)
        with _undone_on_error(store, name, step, is_owner=runtime.rank == 0) as aside:
            laps.end("writing")
            ranks.on_rank_0(functools.partial(make_room, store, name, aside))
            records = ranks.on_all(record_and_upload)
            laps.end("upload")
            ranks.on_rank_0(commit)
            laps.end("commit")
        if runtime.rank == 0:
            settle_replaced(store, aside, name, {runtime.run_id, *facts.continues})
        if keep_files:
            keep(target, stage / name)
    size = sum(record.size for part in records or [] for record in part.values())
    return Committed(location=location, num_bytes=size, phases=laps.phases)


def write_shares(
    target: Path, location: str, ranks: Agreement, *, runtime: Runtime, write_parts: Sequence[WritePart]
) -> list[str]:
    """All ranks: make a directory on each rank's machine, and write its parts into it.

    Args:
        target: The directory of this rank.
        location: The checkpoint that is being saved, for messages.
        ranks: Who agrees that a part is written.
        runtime: Where this rank runs.
        write_parts: As in ``commit_checkpoint``. Each rank's directory has its own files only.

    Returns:
        The names of the files that this rank records and uploads.
    """

    def make_directory() -> None:
        with stage_explained(location, target, always=True):
            make_empty(target)

    def write(write_part: WritePart) -> None:
        with stage_explained(location, target):
            relative_names(target, write_part(target))

    ranks.on_all(make_directory)
    for write_part in write_parts:
        ranks.on_all(functools.partial(write, write_part))
    claims = ranks.on_all(functools.partial(_names_below, target))
    return runtime.broadcast(_share_out(claims or []))[runtime.rank]


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


@contextlib.contextmanager
def _undone_on_error(store: ObjectStore, name: str, step: int, *, is_owner: bool) -> Generator[str]:
    """Rank 0: undo what was done in the bucket if a save fails or is interrupted.

    Yields:
        The folder for the checkpoint that is replaced.
    """
    aside = replaced_name(step)
    try:
        yield aside
    except BaseException:
        if is_owner:
            undo(store, name, aside)
        raise


def keep(target: Path, kept: Path) -> None:
    """This process: keep the files of a save in the stage, under the name of the checkpoint."""
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
def stage_explained(location: str, target: Path, *, always: bool = False) -> Generator[None]:
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
        what_to_do = (
            f"They were removed, perhaps by what cleans temporary files; set {VARIABLE} to a directory that nothing "
            "cleans."
            if isinstance(error, FileNotFoundError)
            else f"Free space there, or set {VARIABLE} to a directory with more."
        )
        raise CheckpointError(
            f"{location} could not be written, because its files are staged in {target.parent} first "
            f"({free_space(target)}): {type(error).__name__}: {error}. {what_to_do} Earlier checkpoints are untouched."
        ) from error
