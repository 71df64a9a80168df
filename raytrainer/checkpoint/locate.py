"""Where a checkpoint is read, given where it is: a path, or a URI whose files are fetched first."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from raytrainer.runtimes.base import Runtime
from raytrainer.storage.locations import is_uri, split, without_options


def is_checkpoint(location: str) -> bool:
    """Whether there is a checkpoint: a directory, or a complete one in a bucket."""
    if not is_uri(location):
        return Path(location).is_dir()
    from raytrainer.checkpoint.remote.contents import contents_of, is_complete
    from raytrainer.storage.store import ObjectStore

    parent, name = split(location)
    return is_complete(contents_of(ObjectStore(parent), name))


def is_inside(location: str, directory: str) -> bool:
    """Whether a checkpoint is one of a run directory or of a run's bucket."""
    if is_uri(location) or is_uri(directory):
        return without_options(split(location)[0]) == without_options(directory)
    return Path(location).resolve().parent == Path(directory).resolve()


def readable(location: str | os.PathLike[str]) -> Path:
    """This process: the directory of a path, or a copy of what a URI names.

    Raises:
        CheckpointError: If it cannot be fetched.
    """
    if not is_uri(location):
        return Path(location)
    from raytrainer.checkpoint.remote.fetch import fetch_verified

    return fetch_verified(os.fspath(location))


def readable_on_all(location: str | os.PathLike[str], runtime: Runtime) -> Path:
    """All ranks: the same, with one copy on each machine.

    Args:
        location: The same on all ranks.
        runtime: Where this rank runs.

    Raises:
        CheckpointError: On all ranks, if it cannot be fetched.
    """
    if not is_uri(location):
        return Path(location)
    from raytrainer.checkpoint.remote.fetch import local_copy

    return local_copy(os.fspath(location), runtime)


def forget_copies() -> None:
    """This process: delete the copies that it made."""
    fetch = sys.modules.get("raytrainer.checkpoint.remote.fetch")
    if fetch is not None:
        fetch.release_copies()
