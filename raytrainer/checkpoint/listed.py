"""Which files of a checkpoint count: those that its manifest lists, whatever else lies there.

A file that somebody puts into a checkpoint, or a folder that a tool leaves there, must not change what is loaded. What
transformers wrote has no manifest, so there every file counts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.names import MANIFEST_NAME


def listed_in(checkpoint: Path) -> Callable[[str], bool]:
    """Look up which files of a checkpoint count.

    Args:
        checkpoint: A checkpoint, or another directory that has no manifest.

    Returns:
        Whether a file, or a folder with files, counts; by its path in the checkpoint with ``/``.

    Raises:
        CheckpointError: If there is a manifest that is damaged.
    """
    if not (checkpoint / MANIFEST_NAME).is_file():
        return lambda name: True
    names = read_manifest(checkpoint).files.keys()
    folders = {name.rpartition("/")[0] for name in names}
    return lambda name: name in names or name in folders
