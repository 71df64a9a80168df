"""Whether the output directory can be written to.

This is tested by creating the directory and writing a file, because permission bits do not reveal read-only mounts,
quotas and problems of network file systems.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import is_uri
from raytrainer.storage.probe import check_bucket


def check_output_dir(output_dir: str | os.PathLike[str]) -> Path | str:
    """Create the output directory, unless it is a bucket, and check that files can be written to it.

    Args:
        output_dir: A path or a URI.

    Returns:
        The absolute path, or the URI.

    Raises:
        ConfigurationError: If it cannot be written to.
    """
    if is_uri(output_dir):
        check_bucket(str(output_dir))
        return str(output_dir)
    if not str(output_dir).strip():
        raise ConfigurationError(
            f"output_dir={str(output_dir)!r} is empty, but the name of a directory was expected. Write '.' for this "
            "directory, or leave it out for 'trainer_output'."
        )
    path = Path(os.path.abspath(os.path.expanduser(output_dir)))
    try:
        blocking = _blocking_file(path)
    except OSError as error:
        raise ConfigurationError(
            f"output_dir={_start_of(output_dir)!r} cannot be the name of a directory: {error.strerror}. "
            "Choose another output_dir."
        ) from error
    if blocking is not None:
        raise ConfigurationError(
            f"output_dir={str(output_dir)!r} cannot be a directory: {str(blocking)!r} is a file. Choose "
            "another output_dir, or move the file away."
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable-"):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"output_dir={str(output_dir)!r} cannot be written to: {error.strerror or error} "
            f"({_existing_parent(path)}). Choose a directory that you can write to, or change its permissions."
        ) from error
    return path


def _start_of(name: str | os.PathLike[str]) -> str:
    text = str(name)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _blocking_file(path: Path) -> Path | None:
    for part in (path, *path.parents):
        if part.exists():
            return None if part.is_dir() else part
    return None


def _existing_parent(path: Path) -> str:
    for part in (path, *path.parents):
        if part.exists():
            return f"the part that exists is {str(part)!r}"
    return "no part of it exists"
