"""Shards of tensors in safetensors files: what a file holds, and how a rank reads the part that it needs.

The position of a slice in its tensor is kept in the file's metadata, in the form of torch's distributed checkpoints
(``HuggingFaceStorageWriter``). Files of full tensors have no such entry.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raytrainer.checkpoint.listed import listed_in
from raytrainer.checkpoint.safetensors_header import Shape, read_header
from raytrainer.checkpoint.tensor_files import TORCH_METADATA
from raytrainer.layout.shards import LocalShard

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Names of dtypes in safetensors files."""

_SLICES, _OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
"""Where ``HuggingFaceStorageReader`` looks for the place of a slice in its tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredShard:
    """A shard in a file; a full tensor is one too."""

    dtype: torch.dtype
    shape: Shape
    begin: int
    """Offset of its first byte, from the start of the file [bytes]."""
    start: int = 0
    """Index of its first element in the full tensor, flattened."""


def shard_paths(directory: Path) -> list[Path]:
    """The files of shards in a directory of a checkpoint."""
    is_listed = listed_in(directory.parent)
    found = sorted(directory.glob("*.safetensors"))
    return [path for path in found if is_listed(f"{directory.name}/{path.name}")]


def slice_metadata(shards: dict[str, LocalShard]) -> dict[str, str]:
    """The metadata of a file that holds these shards."""
    offsets = {name: {_OFFSETS: shard.offsets} for name, shard in shards.items()}
    return {_SLICES: json.dumps(offsets), **TORCH_METADATA}


def stored_shards(file: io.BufferedReader) -> dict[str, StoredShard]:
    """What a file holds, by the names of the tensors; the file is open at its beginning.

    Raises:
        ValueError: If it is not a safetensors file.
        KeyError: If it has a dtype that torch does not have.
    """
    header = read_header(file)
    slices: dict[str, dict[str, list[int]]] = json.loads(header.metadata.get(_SLICES, "{}"))
    found: dict[str, StoredShard] = {}
    for name, entry in header.tensors.items():
        offsets = slices[name][_OFFSETS] if name in slices else []
        found[name] = StoredShard(
            dtype=DTYPES[entry.dtype],
            shape=entry.shape,
            begin=entry.begin,
            start=offsets[0] * math.prod(entry.shape[1:]) if offsets else 0,
        )
    return found


def read_into(shard: LocalShard, file: io.BufferedReader, stored: StoredShard) -> int:
    """Read what a file has of a rank's shard into the memory where it stays; return the number of elements.

    The file is not mapped, because the pages of a map would count as memory of every rank.

    Args:
        shard: Its values are overwritten where the two overlap; they may have another dtype and device.
        file: Holds the stored shard.
        stored: What to read.
    """
    values = shard.values
    first = max(shard.start, stored.start)
    count = (
        min(shard.start + values.numel(), stored.start + math.prod(stored.shape)) - first
        if values.numel()
        else 0
    )
    if count <= 0:
        return 0
    is_direct = values.device.type == "cpu" and values.dtype == stored.dtype and values.is_contiguous()
    place = slice(first - shard.start, first - shard.start + count)
    buffer = values.view(-1)[place] if is_direct else torch.empty(count, dtype=stored.dtype)
    _read_bytes(buffer, file, stored.begin + (first - stored.start) * stored.dtype.itemsize)
    if not is_direct:
        with torch.no_grad():
            if values.is_contiguous():
                values.view(-1)[place] = buffer.to(values.device, values.dtype)
            else:
                run = values.reshape(-1)
                run[place] = buffer.to(values.device, values.dtype)
                values.copy_(run.reshape(values.shape))
    return count


def _read_bytes(buffer: torch.Tensor, file: io.BufferedReader, begin: int) -> None:
    array: Any = buffer.reshape(-1).view(torch.uint8).numpy()
    view = memoryview(array)
    file.seek(begin)
    if file.readinto(view) != len(view):
        raise ValueError("the file ends before its last tensor")
