"""``raytrainer export``: writes the model of a checkpoint as files for ``from_pretrained``."""

from __future__ import annotations

import json
import re
from pathlib import Path

from raytrainer.checkpoint.names import list_checkpoints
from raytrainer.checkpoint.weight_files import find_adapter, find_weights
from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import is_uri
from raytrainer.telemetry.formatting import format_bytes

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def export(
    checkpoint: str,
    target: str,
    *,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
    as_json: bool = False,
) -> int:
    """Export a checkpoint and print what was written.

    Args:
        checkpoint: A ``checkpoint-N`` directory or its URI, written by any backend.
        target: Where to write the model; a directory that is new or empty, or a URI.
        dtype: Of the weights: ``float32``, ``bfloat16`` or ``float16``; as saved by default.
        max_shard_size: Largest size of a weight file, such as ``5GB``.
        as_json: Print JSON.

    Returns:
        The exit code, 0.

    Raises:
        ConfigurationError: If the size cannot be read, or there is no checkpoint.
        CheckpointError: If the checkpoint has no weights or is damaged, or the directory is not empty.
    """
    size = num_bytes(max_shard_size)
    # torch, which the rest needs, takes seconds to import.
    if is_uri(checkpoint):
        check_is_checkpoint_in_bucket(checkpoint)
    else:
        check_is_checkpoint(Path(checkpoint))

    import torch

    from raytrainer.checkpoint.export import export_checkpoint
    from raytrainer.checkpoint.locate import readable
    from raytrainer.checkpoint.published import written_to

    torch_dtype = getattr(torch, dtype) if dtype else None
    if is_uri(target):
        check_is_new(target)
    source = readable(checkpoint)
    with written_to(target) as directory:
        exported = export_checkpoint(source, Path(directory), dtype=torch_dtype, max_shard_bytes=size)
    if as_json:
        facts = {"tensors": exported.num_tensors, "bytes": exported.num_bytes, "files": exported.files}
        print(json.dumps({"directory": target, **facts}))
        return 0
    count = len(exported.files)
    files = exported.files[0] if count == 1 else f"{count} files"
    print(f"{target}: {exported.num_tensors} tensors, {format_bytes(exported.num_bytes)}, in {files}")
    return 0


def check_is_checkpoint(path: Path) -> None:
    """Check that a directory is not something else, such as the output_dir of a run.

    Raises:
        ConfigurationError: If it is, with the newest checkpoint in it.
    """
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a directory. Name a checkpoint-N of a run.")
    inside = list_checkpoints(path)
    if inside and find_weights(path) is None and find_adapter(path) is None:
        raise ConfigurationError(
            f"{path} is a run, not a checkpoint. Name one of its checkpoints; the newest is {inside[-1]}."
        )


def check_is_checkpoint_in_bucket(uri: str) -> None:
    """Check that a URI does not name something else, such as the output_dir of a run.

    Raises:
        ConfigurationError: If it does, with the newest checkpoint in it; or if it cannot be read.
    """
    from raytrainer.checkpoint.locate import checkpoints_in_bucket

    found = checkpoints_in_bucket(uri)
    if found != [uri]:
        raise ConfigurationError(
            f"{uri} is a run, not a checkpoint. Name one of its checkpoints; the newest is {found[-1]}."
        )


def check_is_new(uri: str) -> None:
    """Check that a bucket can be written to, and has nothing below a URI yet.

    Raises:
        ConfigurationError: If not.
    """
    from raytrainer.storage.probe import check_bucket
    from raytrainer.storage.store import ObjectStore

    if ObjectStore(uri).list():
        raise ConfigurationError(f"{uri} is not empty. Name a place where nothing is yet.")
    check_bucket(uri, "directory")


def num_bytes(text: str) -> int:
    """Read a size such as ``5GB``.

    Returns:
        The size in bytes.

    Raises:
        ConfigurationError: If it is not a size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B)", text.strip().upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise ConfigurationError(f"--max_shard_size {text!r} is not a size. Write it as in 500MB or 5GB.")
    return size
