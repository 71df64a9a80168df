"""How the files of a checkpoint in a bucket come to the machines that read them.

A checkpoint is downloaded once for each machine, by its first rank, into that rank's stage; the other ranks there read
the same files. It stays until the stage is released. Its driver, which only checks, downloads the small files and
the headers of the weights.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator
from pathlib import Path

from raytrainer.checkpoint.names import MANIFEST_NAME
from raytrainer.checkpoint.rank_agreement import Agreement
from raytrainer.checkpoint.remote.contents import Contents, checkpoint_names, contents_of
from raytrainer.checkpoint.verify import verify_checkpoint
from raytrainer.errors import CheckpointError
from raytrainer.runtimes.base import Runtime
from raytrainer.storage.locations import split
from raytrainer.storage.stage import VARIABLE, stage_of
from raytrainer.storage.store import ObjectStore

_SMALL_BYTES = 1_000_000
"""Of files that a driver downloads whole; of larger ones it reads as much."""
_RESERVE_BYTES = 50_000_000

_copies: set[Path] = set()
"""Of this process."""


def fetch(uri: str) -> Path:
    """This process: download a folder of a bucket, unless it is here already.

    Args:
        uri: Of a checkpoint, or of another folder with a model.

    Returns:
        A directory of this process's stage that has the name of the folder. A checkpoint with a manifest is not
        verified yet.

    Raises:
        CheckpointError: If there is nothing, the store fails, or this machine has no room.
    """
    parent, name = split(uri)
    store, stage = ObjectStore(parent), stage_of(parent)
    with fetching_explained(uri):
        contents = contents_of(store, name)
        check_is_there(store, name, contents)
        return _download(store, name, contents, stage)


def check_is_there(store: ObjectStore, name: str, contents: Contents) -> None:
    """Check that there is a folder to read.

    Raises:
        CheckpointError: If there is nothing, or an interrupted upload.
    """
    location = store.location(name)
    if not contents.files:
        raise CheckpointError(
            f"Can't find a valid checkpoint at {location}: there is nothing. {nearby(store, name)}"
        )
    if contents.is_partial:
        raise CheckpointError(
            f"{location} is not a checkpoint: it is being uploaded or deleted, or that was interrupted. "
            f"{nearby(store, name)}"
        )


def nearby(store: ObjectStore, besides: str) -> str:
    """List the checkpoints that a user could have meant instead of one."""
    names = [name for name in reversed(checkpoint_names(store)) if name != besides]
    if not names:
        return f"There is no other checkpoint in {store.location()}."
    more = f" and {len(names) - 5} older" if len(names) > 5 else ""
    return f"In {store.location()} there are {', '.join(names[:5])}{more}; name one of them."


def _download(store: ObjectStore, name: str, contents: Contents, stage: Path) -> Path:
    final, partial = stage / name, stage / f".{name}.fetching"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _reuse(store, name, contents, final, partial)
        missing = {file: size for file, size in contents.files.items() if not (partial / file).exists()}
        _check_room(sum(missing.values()), stage)
        store.get_all({f"{name}/{file}": partial / file for file in missing})
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        keep_as_copy(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _reuse(store: ObjectStore, name: str, contents: Contents, final: Path, partial: Path) -> None:
    """Take over the files of an earlier download, or of the save itself, if they are those of the same commit."""
    if not contents.is_ours or not final.is_dir():
        return
    manifest = store.get_text(f"{name}/{MANIFEST_NAME}")
    here = final / MANIFEST_NAME
    if here.is_file() and here.read_text(encoding="utf-8") != manifest:
        return
    for file, size in contents.files.items():
        path = final / file
        if path.is_file() and path.stat().st_size == size:
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            path.rename(partial / file)


def _check_room(num_bytes: int, stage: Path) -> None:
    free = shutil.disk_usage(stage).free
    if num_bytes + _RESERVE_BYTES > free:
        raise CheckpointError(
            f"It has {num_bytes / 1e9:,.2f} GB to download, and {stage} has {free / 1e9:,.2f} GB free. Free space "
            f"there, or set {VARIABLE} to a directory with more."
        )


def fetch_outline(uri: str, directory: Path) -> Path:
    """Download what tells whether a run can resume from a checkpoint: small files, and the headers of large ones.

    A large file has its size here, and only its beginning.

    Args:
        uri: Of the checkpoint.
        directory: Where its folder is made.
    """
    parent, name = split(uri)
    store, target = ObjectStore(parent), directory / name
    with fetching_explained(uri):
        for file, size in contents_of(store, name).files.items():
            path = target / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if size <= _SMALL_BYTES:
                store.get(f"{name}/{file}", path)
            elif path.suffix == ".safetensors":
                path.write_bytes(_head(store, f"{name}/{file}"))
                with path.open("r+b") as outline:
                    outline.truncate(size)
    return target


def _head(store: ObjectStore, file: str) -> bytes:
    """The beginning of a safetensors file, with its header."""
    first = store.get_range(file, 0, _SMALL_BYTES)
    length = 8 + int.from_bytes(first[:8], "little")
    return first if length <= len(first) else first + store.get_range(file, len(first), length - len(first))


def local_copy(location: str, runtime: Runtime) -> Path:
    """All ranks: the directory in which this rank reads a checkpoint, or another folder.

    Args:
        location: A URI; the same on all ranks.
        runtime: Where this rank runs.

    Raises:
        CheckpointError: On all ranks, if one of them cannot read it.
    """
    ranks = Agreement(runtime, f"{location} was not read")
    fetched = ranks.on_all(lambda: fetch_verified(location) if runtime.local_rank == 0 else None)
    return runtime.scatter(_of_machines(fetched) if fetched is not None else None)


def _of_machines(fetched: list[Path | None]) -> list[Path]:
    """Rank 0: for each rank the directory of the first rank on its machine; ranks of a machine follow each other."""
    last: Path | None = None
    directories: list[Path] = []
    for one in fetched:
        last = one or last
        assert last is not None, "rank 0 is the first on its machine"
        directories.append(last)
    return directories


def fetch_verified(uri: str) -> Path:
    """This process: download a folder, and check the hashes of a checkpoint.

    Raises:
        CheckpointError: As ``fetch``, and if a file is damaged.
    """
    path = fetch(uri)
    if (path / MANIFEST_NAME).is_file():
        with told_by_uri(path, uri):
            verify_checkpoint(path)
    return path


def release_copies(keep: Path | None = None) -> None:
    """This process: delete what it has fetched and kept, but for one directory."""
    for path in list(_copies):
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)
            _copies.discard(path)


def keep_as_copy(path: Path) -> None:
    """This process: a directory in its stage is one of those that ``release_copies`` deletes."""
    _copies.add(path)


@contextlib.contextmanager
def told_by_uri(path: Path, uri: str) -> Generator[None]:
    """Let errors about a copy on this machine name what it is a copy of."""
    try:
        yield
    except CheckpointError as error:
        text = str(error).replace(str(path), uri).replace(str(path.parent), split(uri)[0])
        raise CheckpointError(text) from error


@contextlib.contextmanager
def fetching_explained(uri: str) -> Generator[None]:
    """Turn an error of the store into one that says what cannot be read."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{uri} cannot be read: {error}. Check the network, and that the credentials of this machine are valid and "
            "may list and read there."
        ) from error
