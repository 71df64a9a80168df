"""Where a process keeps files of a run whose output directory is a bucket, until they are in it.

Each process has a directory of its own below ``RAYTRAINER_STAGE_DIR`` (by default the machine's temporary directory),
and in it one for each URI. It is deleted when the process ends. A process that is killed cannot do that: it holds a
lock on a file beside its directory, which the kernel releases, and the next process that stages anything deletes the
directories whose locks nobody holds.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path

from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import is_uri, split, without_options

logger = logging.getLogger(__name__)

VARIABLE = "RAYTRAINER_STAGE_DIR"

_LOCK = ".lock"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


class _OwnStage:
    """The directory of this process, and the lock that says that it lives."""

    def __init__(self, root: Path) -> None:
        self.pid = os.getpid()
        root.mkdir(parents=True, exist_ok=True)
        self.directory = root / f"{self.pid}-{secrets.token_hex(4)}"
        self._lock_path = self.directory.with_name(self.directory.name + _LOCK)
        while True:
            self._lock = self._lock_path.open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            # A sweep may have taken the file between the two calls, for one that was left behind.
            if self._lock_path.exists() and os.path.samestat(
                os.fstat(self._lock.fileno()), self._lock_path.stat()
            ):
                break
            self._lock.close()
        self.directory.mkdir(mode=0o700)

    def remove(self) -> None:
        if os.getpid() != self.pid:  # a fork
            return
        shutil.rmtree(self.directory, ignore_errors=True)
        self._lock_path.unlink(missing_ok=True)
        self._lock.close()


_own: _OwnStage | None = None


def stage_root() -> Path:
    """The directory below which processes of this machine stage files."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(tempfile.gettempdir()) / f"raytrainer-stage-{os.getuid()}"


def stage_of(uri: str) -> Path:
    """This process's directory for a URI; made on the first call, always the same afterwards.

    Raises:
        ConfigurationError: If nothing can be written there.
    """
    global _own  # noqa: PLW0603 - a process has one
    plain = without_options(uri)
    name = _NOT_IN_NAMES.sub("_", split(plain)[1]) or "run"
    try:
        root = stage_root()
        if _own is None or _own.pid != os.getpid() or _own.directory.parent != root:
            sweep_stages(root)
            _own = _OwnStage(root)
            atexit.register(_own.remove)
        directory = _own.directory / f"{name}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
        directory.mkdir(exist_ok=True, parents=True)
    except OSError as error:
        raise ConfigurationError(
            f"{plain} needs room on this machine for the checkpoint that is being written, and {stage_root()} cannot "
            f"be used: {error}. Set {VARIABLE} to a directory on a disk of this machine."
        ) from error
    return directory


def discard_stage() -> None:
    """Delete this process's directory now, because Ray may kill a process at its end."""
    global _own  # noqa: PLW0603 - a process has one
    if _own is not None:
        atexit.unregister(_own.remove)
        _own.remove()
        _own = None


def working_directory(output_dir: str | os.PathLike[str]) -> Path:
    """Where this process writes what belongs to a run: its output directory, or its stage of that bucket."""
    return stage_of(os.fspath(output_dir)) if is_uri(output_dir) else Path(output_dir)


def sweep_stages(root: Path) -> None:
    """Delete what killed processes left behind."""
    for lock_path in root.glob(f"*{_LOCK}"):
        try:
            with lock_path.open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                directory = lock_path.with_name(lock_path.name.removesuffix(_LOCK))
                shutil.rmtree(directory, ignore_errors=True)
                if directory.exists():
                    logger.warning(
                        "%s, which a killed process left, cannot be deleted and takes space.", directory
                    )
                    continue
                lock_path.unlink()
        except OSError:  # its process lives, or another one sweeps
            continue
