"""Files that an upload can read for as long as it takes, whatever training does meanwhile.

The files of a committed checkpoint never change, but retention, or a new checkpoint of the same step, may delete
them. So an upload reads hard links to them: they cost no space while the checkpoint lives, take no time, and keep the
content when the original names are gone. Where a file system has no hard links, files are copied. Files that may change
are always copied.

The links are in a directory that is not a checkpoint (see ``names``); if this attempt is killed, the next one deletes
it.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from raytrainer.checkpoint.durable_writes import discard
from raytrainer.checkpoint.names import (
    ARGUMENTS_NAME,
    MANIFEST_NAME,
    OPTIMIZER_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    SHARDED_OPTIMIZER_NAME,
    STATE_NAME,
    uploading_name,
)

_OF_TRAINING = (
    MANIFEST_NAME,
    STATE_NAME,
    OPTIMIZER_NAME,
    SCHEDULER_NAME,
    SCALER_NAME,
    f"{SHARDED_OPTIMIZER_NAME}/*",
    "loop_state.json",
    "rng_state*.pth",
    "training_args.bin",
    ARGUMENTS_NAME,
    ".*",
)
"""What a checkpoint holds besides its model."""


def is_of_model(name: str) -> bool:
    """Whether a file of a checkpoint, by its path in it, belongs to the model and not to the state of training."""
    return not any(fnmatch.fnmatchcase(name, pattern) for pattern in _OF_TRAINING)


def files_below(directory: Path) -> dict[str, Path]:
    """The files of a directory, by their paths in it with ``/``; what vanishes meanwhile is left out."""
    found = [Path(folder) / name for folder, _, names in os.walk(directory) for name in names]
    return {path.relative_to(directory).as_posix(): path for path in sorted(found) if path.is_file()}


class Snapshot:
    """Files that stay unchanged until the snapshot is discarded.

    Args:
        run_dir: Where it is created; on the file system of the checkpoints.
        step: Named in its directory.
        links: Files that never change, by their names in the snapshot.
        copies: Files that may change.

    Raises:
        OSError: If storage fails; then nothing is left behind.
    """

    def __init__(
        self, run_dir: Path, step: int, *, links: Mapping[str, Path], copies: Mapping[str, Path]
    ) -> None:
        self._step = step
        self._directory = run_dir / uploading_name(step)
        try:
            self.files = {name: self._take(name, path, links=True) for name, path in links.items()}
            self.files |= {name: self._take(name, path, links=False) for name, path in copies.items()}
        except BaseException:
            self.discard()
            raise

    def _take(self, name: str, source: Path, *, links: bool) -> Path:
        target = self._directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if links:
            try:
                os.link(source, target)
            except OSError:  # no hard links here, or too many of this file
                shutil.copyfile(source, target)
        else:
            shutil.copyfile(source, target)
        return target

    def discard(self) -> None:
        """Delete the files."""
        discard(self._directory, self._step)
