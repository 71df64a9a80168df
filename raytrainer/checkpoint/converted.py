"""A committed checkpoint whose weights a user wrote anew, in other files: in shards, in one file, with ``torch.save``.

A file that is gone while a complete set of weights under other names took its place is no damage: no crash and no
broken copy makes one. So such a checkpoint can be resumed from, if it was named and everything else in it is as it was
committed. Files with the same names and other content are damage as far as anybody can tell.
"""

from __future__ import annotations

from pathlib import Path

from raytrainer.checkpoint.manifest import Manifest
from raytrainer.checkpoint.names import (
    TORCH_WEIGHTS_INDEX_NAME,
    TORCH_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from raytrainer.checkpoint.weight_files import find_weights, read_shapes

_STEMS = tuple(Path(name).stem for name in (WEIGHTS_NAME, TORCH_WEIGHTS_NAME))


def converted_weights(path: Path, manifest: Manifest) -> tuple[set[str], list[Path]] | None:
    """Find the weights that took the place of those that were committed.

    Args:
        path: The checkpoint.
        manifest: Lists what was committed.

    Returns:
        The names of the files that are gone, and the files that hold the weights now; None if nothing was converted.

    Raises:
        CheckpointError: If the new files are damaged, or an index names a file that is not there.
    """
    committed = {name for name in manifest.files if _is_weights(name)}
    gone = {name for name in committed if not (path / name).is_file()}
    found = find_weights(path) if gone else None
    if found is None or any(file.name in committed for file in found.paths):
        return None
    if found.are_safetensors:
        read_shapes(found)
    return gone, found.paths


def _is_weights(name: str) -> bool:
    return name in (WEIGHTS_INDEX_NAME, TORCH_WEIGHTS_INDEX_NAME) or (
        name.startswith(_STEMS) and name.endswith((".safetensors", ".bin"))
    )
