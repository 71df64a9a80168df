"""Exports the model of a checkpoint: weights in files of a chosen size and precision, configuration and tokenizer.

Tensors are read and written file by file, so no more is in memory than one file of the result.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raytrainer.checkpoint.names import MANIFEST_NAME, WEIGHTS_INDEX_NAME
from raytrainer.checkpoint.shard_files import stored_shards
from raytrainer.checkpoint.sharded_weights import part_name
from raytrainer.checkpoint.tensor_files import each_tensor, write_tensors
from raytrainer.checkpoint.verify import verify_checkpoint
from raytrainer.checkpoint.weight_files import find_adapter, find_weights
from raytrainer.errors import CheckpointError

DEFAULT_SHARD_BYTES = 5_000_000_000
_OF_TRAINING = (
    "manifest.json",
    "loop_state.json",
    "trainer_state.json",
    "training_args.bin",
    "training_args.json",
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "model*.safetensors*",
    "pytorch_model*",
)
"""What a model does not need, or what the export writes itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What an export wrote."""

    num_tensors: int
    num_bytes: int
    """Of the weights."""
    files: list[str]
    """Of the weights."""


def export_checkpoint(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> Exported:
    """Write the model of a checkpoint to a directory that ``from_pretrained`` reads.

    Args:
        source: A checkpoint of any backend, or another directory with safetensors. It is verified if it has a manifest.
        target: Must not exist, or be empty. It appears complete or not at all.
        dtype: Of floating-point tensors; that of the checkpoint by default.
        max_shard_bytes: Size of a file of weights [bytes]; a larger tensor gets a file of its own.

    Raises:
        CheckpointError: If the source has no weights or is damaged, or the target is not empty.
    """
    if (source / MANIFEST_NAME).is_file():
        verify_checkpoint(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} exists and is not empty. Name a directory that does not exist.")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        exported = _export(source, partial, dtype, max_shard_bytes)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return exported


def _export(source: Path, target: Path, dtype: torch.dtype | None, max_shard_bytes: int) -> Exported:
    weights, adapter = find_weights(source), find_adapter(source)
    if weights is not None and weights.are_safetensors:
        _copy_the_rest(source, target)
        exported = _write_weights(weights.paths, target, dtype, max_shard_bytes)
        _note_dtype(target, dtype)
        return exported
    if adapter is not None and adapter.suffix == ".safetensors":
        _copy_the_rest(adapter.parent, target)
        (target / adapter.name).unlink(missing_ok=True)
        tensors = {name: _cast(value, dtype) for name, value in each_tensor([adapter])}
        write_tensors(target / adapter.name, tensors)
        num_bytes = sum(value.numel() * value.element_size() for value in tensors.values())
        return Exported(num_tensors=len(tensors), num_bytes=num_bytes, files=[adapter.name])
    raise CheckpointError(
        f"{source} has no weights as safetensors (model.safetensors, or files with an index), and no adapter."
    )


def _write_weights(
    paths: list[Path], target: Path, dtype: torch.dtype | None, max_shard_bytes: int
) -> Exported:
    sizes = _sizes(paths, dtype)
    files = _share_out(sizes, max_shard_bytes)
    count = max(files.values()) + 1
    pending: dict[str, torch.Tensor] = {}
    last = 0

    def write() -> None:
        write_tensors(target / part_name(last, count), pending)
        pending.clear()

    for name, value in each_tensor(paths):
        if files[name] != last:
            write()
        last = files[name]
        pending[name] = _cast(value, dtype)
    write()
    if count > 1:
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": {name: part_name(number, count) for name, number in sorted(files.items())},
        }
        (target / WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    names = [part_name(number, count) for number in range(count)]
    return Exported(num_tensors=len(sizes), num_bytes=sum(sizes.values()), files=names)


def _sizes(paths: list[Path], dtype: torch.dtype | None) -> dict[str, int]:
    """Bytes of each tensor in the result, in the order of ``each_tensor``."""
    sizes: dict[str, int] = {}
    for path in paths:
        with path.open("rb") as file:
            table = stored_shards(file)
        for name in sorted(table):
            stored = table[name].dtype
            kept = dtype if dtype is not None and stored.is_floating_point else stored
            sizes[name] = torch.Size(table[name].shape).numel() * kept.itemsize
    return sizes


def _share_out(sizes: dict[str, int], max_bytes: int) -> dict[str, int]:
    files: dict[str, int] = {}
    number = filled = 0
    for name, size in sizes.items():
        if filled and filled + size > max_bytes:
            number, filled = number + 1, 0
        files[name] = number
        filled += size
    return files


def _cast(value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def _copy_the_rest(source: Path, target: Path) -> None:
    """Copy configuration, tokenizer, and what users put beside them."""
    for path in sorted(source.iterdir()):
        if path.is_file() and not any(path.match(pattern) for pattern in _OF_TRAINING):
            shutil.copy2(path, target / path.name)


def _note_dtype(target: Path, dtype: torch.dtype | None) -> None:
    path = target / "config.json"
    if dtype is None or not path.is_file():
        return
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
