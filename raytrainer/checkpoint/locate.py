"""Where a checkpoint is read, given where it is: a path, or a URI whose files are fetched first."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from raytrainer.checkpoint.names import MANIFEST_NAME, STATE_NAME, checkpoint_name, step_of
from raytrainer.errors import ConfigurationError
from raytrainer.runtimes.base import Runtime
from raytrainer.storage.locations import is_uri, join, split, without_options


def is_checkpoint(location: str) -> bool:
    """Whether there is a checkpoint: a directory, or a complete one in a bucket."""
    if not is_uri(location):
        return Path(location).is_dir()
    from raytrainer.checkpoint.remote.contents import contents_of, is_complete
    from raytrainer.storage.store import ObjectStore

    parent, name = split(location)
    return is_complete(contents_of(ObjectStore(parent), name))


def checkpoints_in_bucket(uri: str) -> list[str]:
    """The checkpoint that a URI names, or the URIs of those of a run, by ascending step.

    Raises:
        ConfigurationError: If there is none, or the bucket cannot be read.
    """
    from raytrainer.checkpoint.remote.contents import Contents, complete_steps, is_complete
    from raytrainer.storage.retry import BEFORE_A_RUN
    from raytrainer.storage.store import ObjectStore

    try:
        store = ObjectStore(uri, BEFORE_A_RUN)
        found = store.list()
        if is_complete(Contents(files=found)):
            return [uri]
        steps = complete_steps(found)
        missing = None if found else store.missing_bucket()
    except OSError as error:
        raise ConfigurationError(
            f"{uri} cannot be read: {error}. Check the name and the credentials."
        ) from error
    if steps:
        return [join(uri, checkpoint_name(step)) for step in steps]
    if missing is not None:
        why = f"there is no bucket {missing!r}. Correct the name, or AWS_ENDPOINT_URL if it is set"
    elif Contents(files=found).is_partial:
        why = "it is being uploaded or deleted, or that was interrupted. Name another checkpoint"
    elif found:
        why = (
            f"it has neither {MANIFEST_NAME} nor {STATE_NAME}. Name a checkpoint-N or the output_dir of a run"
        )
    else:
        why = "there is nothing. Name a checkpoint-N or the output_dir of a run"
    raise ConfigurationError(f"{uri} is no checkpoint, and none is in it: {why}.{_others(uri)}")


def _others(uri: str) -> str:
    """Checkpoints beside one that is not there, as a sentence."""
    parent, name = split(uri)
    if step_of(Path(name)) is None:
        return ""
    from raytrainer.checkpoint.remote.fetch import nearby
    from raytrainer.storage.store import ObjectStore

    return f" {nearby(ObjectStore(parent), name)}"


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
