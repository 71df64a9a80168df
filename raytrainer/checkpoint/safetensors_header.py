"""The header of a safetensors file: names, dtypes, shapes and byte ranges of its tensors, and its metadata.

Eight bytes give the length of a JSON table; the data follow it. Neither torch nor safetensors is imported here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, BinaryIO

Shape = tuple[int, ...]

_MAX_HEADER_BYTES = 100_000_000
"""Limit of the format; a larger number means that the file is something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeaderEntry:
    """A tensor in a file."""

    dtype: str
    """The format's name of it: "F32", "BF16", ..."""
    shape: Shape
    begin: int
    """Offset of the first byte, from the start of the file [bytes]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The header of a file."""

    tensors: dict[str, HeaderEntry]
    metadata: dict[str, str]
    file_size: int
    """The size that the file must have [bytes]."""


def read_header(file: BinaryIO) -> Header:
    """Read the header of a file that is open at its beginning.

    Raises:
        ValueError: If it is not such a header.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"it begins with a header of {length} bytes")
    try:
        table: dict[str, Any] = json.loads(file.read(length))
        metadata: dict[str, str] = table.pop("__metadata__", {})
        tensors = {
            name: HeaderEntry(
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                begin=8 + length + entry["data_offsets"][0],
            )
            for name, entry in table.items()
        }
        end = max((entry["data_offsets"][1] for entry in table.values()), default=0)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"its header is malformed: {error}") from error
    return Header(tensors=tensors, metadata=metadata, file_size=8 + length + end)
