"""How a checkpoint is committed: completely or not at all, whichever process dies at whatever moment.

All ranks write their files into one directory whose name is not that of a checkpoint. Then, in this order: every rank
hashes and syncs its files; rank 0 syncs the directories, writes the manifest with all hashes, syncs it, and renames
the directory to ``checkpoint-{step}``; the rename is synced. Before the rename there is no new checkpoint, after it
there is a complete one. An older checkpoint of the same step is moved aside first, and after it deleted, or kept if
another run wrote it (``replaced``); a kill between the two renames leaves it under a dot-name, from which
``scan.sweep_leftovers`` brings it back.

Ranks exchange how each phase ended before the next begins (``rank_agreement``). So a rank that fails never leaves the
others waiting, and files are complete before they are hashed. Nothing here knows what is in the files.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raytrainer.checkpoint.digests import digest_of_file
from raytrainer.checkpoint.durable_writes import (
    free_space,
    is_storage_error,
    sync_directory,
    sync_file,
    sync_tree,
    write_synced,
)
from raytrainer.checkpoint.manifest import CheckpointFacts, FileRecord, Manifest, current_versions
from raytrainer.checkpoint.names import MANIFEST_NAME, checkpoint_name, replaced_name, writing_name
from raytrainer.checkpoint.rank_agreement import Agreement
from raytrainer.checkpoint.replaced import settle_replaced
from raytrainer.checkpoint.save_phases import Laps
from raytrainer.errors import CheckpointError
from raytrainer.runtimes.base import Runtime
from raytrainer.telemetry.events import Phase

__all__ = [
    "CheckpointFacts",
    "Committed",
    "WritePart",
    "commit_checkpoint",
    "make_empty",
    "make_manifest",
    "publish",
    "record_files",
    "relative_names",
    "removed_on_error",
    "storage_explained",
    "write_all_parts",
]

WritePart = Callable[[Path], Sequence[Path]]
"""Writes one rank's files into a directory; returns their paths, absolute or relative to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """A checkpoint that was saved."""

    location: str
    num_bytes: int
    phases: list[Phase] = field(default_factory=list[Phase])
    """Of what the save consisted, as this rank saw it."""


def commit_checkpoint(
    run_dir: Path,
    step: int,
    *,
    runtime: Runtime,
    write_parts: Sequence[WritePart],
    facts: CheckpointFacts,
    laps: Laps | None = None,
) -> Path:
    """All ranks: write a checkpoint and commit it.

    Args:
        run_dir: Where ``checkpoint-{step}`` will be; on storage that all ranks share.
        step: The optimizer step that is done.
        runtime: Where this rank runs.
        write_parts: Each writes some of this rank's files. They may use collectives if they do so on all ranks, and
            none of them begins before all ranks have ended the one before, so that a rank whose storage fails leaves
            no other waiting in a collective of the next.
        facts: What the manifest says about the run; rank 0's counts.
        laps: Gets how long each phase took.

    Returns:
        The directory of the committed checkpoint.

    Raises:
        CheckpointError: On all ranks, if storage failed on one of them. Other exceptions of ``write_part`` reach
            their own rank unchanged and the others as a CheckpointError. Then there is no new checkpoint and the
            earlier ones are untouched.
    """
    target = run_dir / writing_name(step, runtime.run_id, runtime.attempt)
    final = run_dir / checkpoint_name(step)
    ranks = Agreement(runtime, f"{final} was not saved")
    laps = laps or Laps()

    def record() -> dict[str, FileRecord]:
        with storage_explained(final, always=True):
            return record_files(target, share)

    def commit() -> None:
        with storage_explained(final, always=True):
            publish(target, final, step=step, manifest=make_manifest(step, runtime, facts, records or []))

    with removed_on_error(target, is_owner=runtime.rank == 0):
        share = write_all_parts(target, final, ranks, runtime=runtime, write_parts=write_parts)
        laps.end("writing")
        records = ranks.on_all(record)
        laps.end("hashing")
        ranks.on_rank_0(commit)
        laps.end("commit")
    return final


def write_all_parts(
    target: Path, final: Path, ranks: Agreement, *, runtime: Runtime, write_parts: Sequence[WritePart]
) -> list[str]:
    """All ranks: make the directory and write all parts into it.

    Args:
        target: The directory.
        final: The checkpoint that it becomes, for messages.
        ranks: Who agrees that a part is written.
        runtime: Where this rank runs.
        write_parts: As in ``commit_checkpoint``.

    Returns:
        The names of the files that this rank records.
    """

    def make_directory() -> None:
        with storage_explained(final, always=True):
            make_empty(target)

    def write(write_part: WritePart) -> list[str]:
        with storage_explained(final):
            written = write_part(target)
        return relative_names(target, written)

    ranks.on_rank_0(make_directory)
    claims = [ranks.on_all(functools.partial(write, write_part)) for write_part in write_parts]
    return runtime.broadcast(_share_out(target, claims))[runtime.rank]


def make_empty(target: Path) -> None:
    """Make a directory, or make it anew."""
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)


def relative_names(target: Path, paths: Iterable[Path]) -> list[str]:
    """The names in a directory of the files that a part wrote there.

    Raises:
        CheckpointError: If one is not there.
    """
    names: list[str] = []
    for path in paths:
        relative = path.relative_to(target) if path.is_relative_to(target) else path
        if relative.is_absolute() or not (target / relative).is_file():
            raise CheckpointError(
                f"A part of the checkpoint reported the file {path}, but {target} does not have it. "
                "Return only files that were written there."
            )
        names.append(relative.as_posix())
    return names


def _share_out(target: Path, claims: list[list[list[str]] | None]) -> list[list[str]]:
    """Rank 0, when all files are written: which rank records which files.

    Each rank gets those that it wrote. A file that no rank named (a user's hook wrote it) goes to rank 0, one that
    several ranks named to the first of them.
    """
    if any(part is None for part in claims):
        return []
    taken: set[str] = set()
    shares: list[list[str]] = []
    for per_part in zip(*(part for part in claims if part is not None), strict=True):
        claim = [name for names in per_part for name in names]
        shares.append([name for name in dict.fromkeys(claim) if name not in taken])
        taken.update(claim)
    everything = (path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    shares[0] += sorted(name for name in everything if name not in taken)
    return shares


def record_files(target: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Hash and sync files; their data are still in the page cache, so this reads no disk.

    All get the permissions that the umask gives to new files, which their directory shows; safetensors and other
    libraries write files that nobody else may read.
    """
    records: dict[str, FileRecord] = {}
    mode = target.stat().st_mode & 0o666
    for name in names:
        if (target / name).stat().st_mode & 0o777 != mode:
            with contextlib.suppress(OSError):  # some file systems have no permissions
                (target / name).chmod(mode)
        with (target / name).open("rb") as file:
            digest = digest_of_file(file)
            size = file.tell()
        sync_file(target / name)
        records[name] = FileRecord(size=size, digest=digest)
    return records


def make_manifest(
    step: int, runtime: Runtime, facts: CheckpointFacts, records: list[dict[str, FileRecord]]
) -> Manifest:
    """Rank 0: the manifest of a checkpoint.

    Args:
        step: Steps that are done.
        runtime: Names the run and its attempt.
        facts: What the loop knows.
        records: The files that each rank wrote.
    """
    return Manifest(
        step=step,
        epoch=facts.epoch,
        world_size=runtime.world_size,
        samples_consumed=facts.samples_consumed,
        global_batch_size=facts.global_batch_size,
        run_id=runtime.run_id,
        attempt=runtime.attempt,
        files={name: record for part in records for name, record in part.items()},
        versions=current_versions() | dict(facts.versions),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(),
        model_signature=facts.model_signature,
        continues=facts.continues,
    )


def publish(target: Path, final: Path, *, step: int, manifest: Manifest) -> None:
    """Rank 0: write the manifest, then rename. See the head of this file for why in this order.

    Args:
        target: The directory, whose files are complete and on the disk.
        final: The name of the checkpoint.
        step: Steps that are done.
        manifest: Lists the files.
    """
    sync_tree(target)
    write_synced(target / MANIFEST_NAME, manifest.to_json())
    sync_directory(target)
    aside: Path | None = None
    if os.path.lexists(final):
        aside = final.with_name(replaced_name(step))
        final.rename(aside)
    try:
        target.rename(final)
    except OSError:
        if aside is not None:
            aside.rename(final)
        raise
    sync_directory(final.parent)
    if aside is not None:
        settle_replaced(aside, step, manifest.owners)


@contextlib.contextmanager
def removed_on_error(target: Path, *, is_owner: bool) -> Generator[None]:
    """Rank 0: leave nothing behind when a save fails or is interrupted."""
    try:
        yield
    except BaseException:
        if is_owner:
            shutil.rmtree(target, ignore_errors=True)
        raise


@contextlib.contextmanager
def storage_explained(final: Path, *, always: bool = False) -> Generator[None]:
    """Turn a storage error into one that says where it happened and how much space is left there.

    Args:
        final: The checkpoint that is being saved.
        always: Treat every OSError as one of storage; by default a user's code may have raised it for its own reasons.
    """
    try:
        yield
    except Exception as error:
        if not is_storage_error(error) and not (always and isinstance(error, OSError)):
            raise
        raise CheckpointError(
            f"{final} could not be written ({free_space(final)}): {type(error).__name__}: {error}. Free space or "
            "fix the permissions there, lower save_total_limit, or choose another output_dir. Earlier checkpoints "
            "are untouched."
        ) from error
