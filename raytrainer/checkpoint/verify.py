"""Whether a directory is a complete checkpoint.

One of ours is complete if its manifest is intact and every listed file has its size and hash. One that transformers
wrote has no hashes and no file that is always written last: it counts as complete if its state parses and no file is
missing or truncated. Files that are not listed do not matter.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

from raytrainer.checkpoint.digests import digest_of_file
from raytrainer.checkpoint.manifest import FileRecord, Manifest, read_manifest
from raytrainer.checkpoint.names import (
    INCOMPLETE_NAME,
    LOOP_STATE_NAME,
    MANIFEST_NAME,
    OPTIMIZER_NAME,
    SCHEDULER_NAME,
    STATE_NAME,
)
from raytrainer.checkpoint.regular_files import open_regular, read_regular
from raytrainer.checkpoint.weight_files import find_adapter, find_weights, read_shapes
from raytrainer.errors import CheckpointError


def is_ours(path: Path) -> bool:
    """Whether a directory has a manifest, intact or not; or a file that nobody but this package writes."""
    return any(os.path.lexists(path / name) for name in (MANIFEST_NAME, LOOP_STATE_NAME))


def mtime_of(path: Path) -> float:
    """When a directory was changed [s since the epoch].

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        return path.stat().st_mtime
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def verify_checkpoint(path: Path) -> Manifest:
    """Check a checkpoint of ours against its manifest.

    Raises:
        CheckpointError: Names the first file that is missing, has another size, or has other content.
    """
    manifest = read_manifest(path)
    check_files(path, manifest.files)
    return manifest


def check_files(path: Path, files: Mapping[str, FileRecord]) -> None:
    """Check files of a checkpoint, sizes first.

    Args:
        path: The checkpoint.
        files: Name -> size and hash.

    Raises:
        CheckpointError: As ``verify_checkpoint``.
    """
    for name, record in files.items():
        _check_size(path / name, record)
    for name, record in files.items():
        _check_hash(path / name, record)


def check_complete(path: Path, *, needs_optimizer: bool, has_weights: bool = True) -> None:
    """Check a checkpoint that transformers wrote, as far as that is possible without hashes.

    Args:
        path: The checkpoint.
        needs_optimizer: Whether one without optimizer and schedule counts as incomplete.
        has_weights: Whether one without a model's weights does.

    Raises:
        CheckpointError: Names what is missing or damaged.
    """
    if (path / INCOMPLETE_NAME).exists():
        raise CheckpointError(f"{path} holds {INCOMPLETE_NAME}: its save was interrupted.")
    try:
        state = json.loads(read_regular(path / STATE_NAME))
        if not isinstance(state, dict) or "global_step" not in state:
            raise ValueError("it has no global_step")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / STATE_NAME} cannot be read: {error}") from error
    if has_weights:
        _check_weights(path)
    for name in (OPTIMIZER_NAME, SCHEDULER_NAME):
        if (path / name).is_file():
            _check_archive(path / name)
        elif needs_optimizer:
            raise CheckpointError(
                f"{path} has no {name}, so training cannot continue from it as if it had never stopped."
            )


def _check_size(path: Path, record: FileRecord) -> None:
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is missing or cannot be read: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} is not a regular file.")
    size = found.st_size
    if size != record.size:
        word = "truncated" if size < record.size else "too long"
        raise CheckpointError(f"{path} is {word}: it has {size:,} bytes, its manifest says {record.size:,}.")


def _check_hash(path: Path, record: FileRecord) -> None:
    try:
        with open_regular(path) as file:
            digest = digest_of_file(file, record.algorithm)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if digest != record.digest:
        raise CheckpointError(
            f"{path} is damaged: its content has the hash {digest[:12]}..., its manifest says {record.digest[:12]}..."
        )


def _check_weights(path: Path) -> None:
    weights = find_weights(path)
    if weights is None:
        _refuse_foreign_shards(path)
        if find_adapter(path) is None:
            raise CheckpointError(f"{path} has no weights.")
    elif weights.are_safetensors:
        read_shapes(weights)
    else:
        for file in weights.paths:
            _check_archive(file)


def _check_archive(path: Path) -> None:
    """What torch.save wrote is a zip archive; its directory is at its end, so a truncated file has none."""
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is truncated or was not written by torch.save: it does not end as a zip archive does."
        )


def _refuse_foreign_shards(path: Path) -> None:
    """Raise an error that says how to convert shards that other libraries wrote."""
    for folder in path.glob("pytorch_model_fsdp_*"):
        raise CheckpointError(
            f"{path} holds the weights as shards of accelerate ({folder.name}), which are pickles. Convert them once "
            f"with `accelerate merge-weights {folder} {path}`; the optimizer then starts fresh."
        )
    if (path / "zero_to_fp32.py").is_file():
        raise CheckpointError(
            f"{path} holds the weights as shards of a ZeRO engine. Convert them once with "
            f"`python {path}/zero_to_fp32.py {path} {path} --safe_serialization`; the optimizer then starts fresh."
        )
