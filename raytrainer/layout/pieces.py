"""What a rank holds of a tensor, however it was cut: a run of its elements in row-major order.

Rows of a DTensor, the run of a parameter under ZeRO, or all of a tensor that every rank has: each is a run. So a file
that holds runs is read by a rank that needs other runs, and no backend has to know of another.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from raytrainer.layout import flat_runs as zero

_DTYPES = {
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


SLICES = ("DCP_SHARDING_INFO", "saved_offsets")
"""Where ``HuggingFaceStorageReader`` looks for the place of a slice in its tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What this rank holds of a tensor."""

    values: torch.Tensor
    """In the memory where they are used; their elements in order are the run."""
    start: int = 0
    """The run's first element in the whole tensor."""
    is_copy: bool = False
    """Another rank holds the same, and writes it."""

    @property
    def offsets(self) -> list[int]:
        """Where ``values`` begin in the whole tensor, dimension by dimension; one number if they are flat."""
        if self.values.dim() == 0:
            return []
        row = math.prod(self.values.shape[1:])
        return [self.start // row if row else 0] + [0] * (self.values.dim() - 1)


def piece_of(tensor: Any) -> Piece:
    """This rank's run of a tensor."""
    if zero.is_zero(tensor):
        values, start = zero.run_of(tensor)
        return Piece(values=values, start=start)
    if not isinstance(tensor, DTensor):
        return Piece(values=tensor.detach(), is_copy=_rank() != 0)
    assert all(placement.is_replicate() or placement.is_shard(0) for placement in tensor.placements)
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None
    is_copy = any(
        placement.is_replicate() and position
        for placement, position in zip(tensor.placements, coordinate, strict=True)
    )
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    start = offset[0] * math.prod(tensor.shape[1:]) if offset else 0
    return Piece(values=tensor.to_local().detach(), start=start, is_copy=is_copy)


def whole(tensor: Any) -> torch.Tensor:
    """All ranks: the whole of a tensor, on its device."""
    if zero.is_zero(tensor):
        return zero.whole_of(tensor)
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def is_in_pieces(tensor: Any) -> bool:
    """Whether ranks hold different parts of a tensor, or of what is trained in its place."""
    return isinstance(tensor, DTensor) or zero.is_zero(tensor)


def fill(piece: Piece, value: torch.Tensor) -> None:
    """Copy this rank's run out of a whole tensor."""
    run = value.reshape(-1).narrow(0, piece.start, piece.values.numel())
    with torch.no_grad():
        piece.values.copy_(run.reshape(piece.values.shape))


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A run in a file; the whole of a tensor is one too."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    """Of its first byte, from the start of the file."""
    start: int = 0
    """Of its first element in the whole tensor."""


def contents(file: BinaryIO, offsets_key: tuple[str, str] | None = None) -> dict[str, Stored]:
    """The table at the head of a safetensors file.

    Args:
        file: Is open at its beginning.
        offsets_key: Where its metadata keep the offsets of slices, as JSON; the tensors are whole if not given.
    """
    (length,) = struct.unpack("<Q", file.read(8))
    table = json.loads(file.read(length))
    metadata = table.pop("__metadata__", {})
    slices = json.loads(metadata.get(offsets_key[0], "{}")) if offsets_key else {}
    found = {}
    for name, entry in table.items():
        shape = tuple(entry["shape"])
        offsets = slices[name][offsets_key[1]] if offsets_key and name in slices else []
        found[name] = Stored(
            dtype=_DTYPES[entry["dtype"]],
            shape=shape,
            begin=8 + length + entry["data_offsets"][0],
            start=offsets[0] * math.prod(shape[1:]) if offsets else 0,
        )
    return found


def read_into(piece: Piece, file: BinaryIO, stored: Stored) -> int:
    """Read what a file has of a rank's run, into the memory where it stays; return the number of elements.

    A mapped file would count as memory of every rank.
    """
    values = piece.values
    first = max(piece.start, stored.start)
    count = (
        min(piece.start + values.numel(), stored.start + math.prod(stored.shape)) - first
        if values.numel()
        else 0
    )
    if count <= 0:
        return 0
    is_direct = values.device.type == "cpu" and values.dtype == stored.dtype and values.is_contiguous()
    place = slice(first - piece.start, first - piece.start + count)
    buffer = values.view(-1)[place] if is_direct else torch.empty(count, dtype=stored.dtype)
    _read_bytes(buffer, file, stored.begin + (first - stored.start) * stored.dtype.itemsize)
    if not is_direct:
        with torch.no_grad():
            if values.is_contiguous():
                values.view(-1)[place] = buffer.to(values.device, values.dtype)
            else:
                whole_values = values.reshape(-1)
                whole_values[place] = buffer.to(values.device, values.dtype)
                values.copy_(whole_values.reshape(values.shape))
    return count


def _read_bytes(buffer: torch.Tensor, file: BinaryIO, begin: int) -> None:
    array: Any = buffer.reshape(-1).view(torch.uint8).numpy()
    view = memoryview(array)
    file.seek(begin)
    if file.readinto(view) != len(view):  # type: ignore[attr-defined]
        raise ValueError("the file ends before its last tensor")


def files_of(directory: Path) -> list[Path]:
    """The files of pieces in a directory."""
    return sorted(directory.glob("*.safetensors"))


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
