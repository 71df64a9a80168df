"""Changes on disk that survive a power failure: fsync of files and directories, and deletion that is never half done.

A commit depends on order: the data of a file before the name that leads to it. On file systems that cannot sync a
directory (some network and FUSE mounts) that one call is skipped; they order renames themselves. This file decides
nothing about what a checkpoint is.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

from raytrainer.checkpoint.names import deleting_name

logger = logging.getLogger(__name__)

_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}
_STORAGE_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
}
_STORAGE_TEXTS = (
    "no space left on device",
    "disk quota exceeded",
    "file too large",
    "read-only file system",
    "permission denied",
    "input/output error",
    "pytorchstreamwriter failed",
    "unexpected pos",
)
"""How errors of safetensors and torch.save, which have types of their own, describe a storage failure."""


def sync_file(path: Path) -> None:
    """Flush a file's data to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Flush the names in a directory to disk, if the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Flush the names in a directory and in all directories below it to disk."""
    for folder, _, _ in os.walk(path, topdown=False):
        sync_directory(Path(folder))


def write_synced(path: Path, text: str) -> None:
    """Write a text file and flush its data to disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def discard(path: Path, step: int) -> None:
    """Delete a directory; its name is gone at once, so no process sees half of it. Of a link only the link goes.

    What cannot be deleted stays under a dot-name for the next sweep, with a warning: a superfluous checkpoint
    is no reason to stop training.
    """
    doomed = without_name(path, step)
    if doomed is not None:
        delete(doomed)


def without_name(path: Path, step: int) -> Path | None:
    """The first half of ``discard``: take its name from a directory.

    Returns:
        What is to be deleted; None if there is nothing, or, with a warning, if the name cannot be taken.
    """
    if path.name.startswith("."):
        return path
    try:
        return path.rename(path.with_name(deleting_name(step)))
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s could not be deleted and takes space: %s", path, error)
        return None


def delete(doomed: Path) -> None:
    """The second half of ``discard``: delete a directory without a name."""
    try:
        if doomed.is_symlink() or not doomed.is_dir():
            doomed.unlink()
        else:
            shutil.rmtree(doomed)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("%s could not be deleted and takes space: %s", doomed, error)


def is_storage_error(error: BaseException) -> bool:
    """Whether an exception says that the disk is full, not writable, or broken."""
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        return True
    if error.__cause__ is not None and is_storage_error(error.__cause__):
        return True
    text = str(error).lower()
    return any(words in text for words in _STORAGE_TEXTS)


def free_space(path: Path) -> str:
    """The free space at the location of a path, which need not exist, in words."""
    for place in (path, *path.parents):
        try:
            return f"{shutil.disk_usage(place).free / 1e9:,.2f} GB free"
        except OSError:
            continue
    return "unknown free space"
