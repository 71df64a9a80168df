"""What a process writes beside checkpoints: logs, TensorBoard's files, the names of tracker runs.

They are written to the stage, as they would be to a directory, and those that changed are uploaded after each save and
at the end. What an earlier process left in the bucket and is continued comes back first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from raytrainer.checkpoint.names import step_of
from raytrainer.storage.store import ObjectStore

logger = logging.getLogger(__name__)


class SideFiles:
    """The files of one stage that belong to no checkpoint.

    Args:
        store: Of the run's URI.
        stage: This process's directory for it.
    """

    def __init__(self, store: ObjectStore, stage: Path) -> None:
        self._store = store
        self._stage = stage
        self._uploaded: dict[str, tuple[int, int]] = {}

    def upload(self) -> None:
        """Upload what changed since the last time."""
        changed: dict[str, tuple[int, int]] = {}
        for name, path in self._files().items():
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if self._uploaded.get(name) != stamp:
                changed[name] = stamp
        try:
            self._store.put_all({name: self._stage / name for name in changed})
        except OSError as error:
            logger.warning("Logs and reports could not be uploaded to %s: %s", self._store.location(), error)
        else:
            self._uploaded |= changed

    def bring_all(self, names: Iterable[str]) -> None:
        """Download files, and what is in folders, that the bucket has and the stage does not."""
        try:
            found = {
                name: size
                for wanted in names
                for name, size in ({wanted: 0} if self._store.exists(wanted) else self._below(wanted)).items()
            }
            missing = {name: self._stage / name for name in found if not (self._stage / name).exists()}
            self._store.get_all(missing)
        except OSError as error:
            logger.warning(
                "Earlier logs and reports could not be read from %s: %s", self._store.location(), error
            )
            return
        for name, path in missing.items():
            stat = path.stat()
            self._uploaded[name] = (stat.st_mtime_ns, stat.st_size)

    def _below(self, folder: str) -> dict[str, int]:
        return {f"{folder}/{name}": size for name, size in self._store.list(folder).items()}

    def _files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for folder, names, files in os.walk(self._stage):
            if Path(folder) == self._stage:
                names[:] = [
                    name for name in names if step_of(Path(name)) is None and not name.startswith(".")
                ]
                files = [file for file in files if not file.startswith(".")]
            for file in files:
                path = Path(folder) / file
                found[path.relative_to(self._stage).as_posix()] = path
        return found
