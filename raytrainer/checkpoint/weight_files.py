"""Which files of a directory hold a model's weights, and what their headers say.

A safetensors file begins with the names, shapes and byte ranges of its tensors, so names, shapes and a truncated end
are known without reading a tensor. Neither torch nor safetensors is imported here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from raytrainer.checkpoint.names import (
    ADAPTER_WEIGHTS_NAME,
    TORCH_ADAPTER_WEIGHTS_NAME,
    TORCH_WEIGHTS_INDEX_NAME,
    TORCH_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from raytrainer.checkpoint.safetensors_header import Shape, read_header
from raytrainer.errors import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFiles:
    """The files that hold a model's weights."""

    paths: list[Path]
    are_safetensors: bool


def find_weights(directory: Path) -> WeightFiles | None:
    """Find the weights of a full model, as one file or in shards; safetensors first.

    Raises:
        CheckpointError: If an index cannot be read or names a file that does not exist.
    """
    for name, index_name, is_safe in (
        (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, True),
        (TORCH_WEIGHTS_NAME, TORCH_WEIGHTS_INDEX_NAME, False),
    ):
        if (directory / name).is_file():
            return WeightFiles(paths=[directory / name], are_safetensors=is_safe)
        if (directory / index_name).is_file():
            return WeightFiles(paths=_shards(directory / index_name), are_safetensors=is_safe)
    return None


def find_adapter(directory: Path) -> Path | None:
    """Find the weights of an adapter (PEFT), in the directory or in one of its folders."""
    for name in (ADAPTER_WEIGHTS_NAME, TORCH_ADAPTER_WEIGHTS_NAME):
        for path in (directory / name, *sorted(directory.glob(f"*/{name}"))):
            if path.is_file():
                return path
    return None


def read_shapes(files: WeightFiles) -> dict[str, Shape]:
    """Read names and shapes of all tensors from the headers of safetensors files.

    Raises:
        CheckpointError: If a file is damaged or shorter or longer than its header says.
    """
    shapes: dict[str, Shape] = {}
    for path in files.paths:
        shapes |= _shapes_in(path)
    return shapes


def _shapes_in(path: Path) -> dict[str, Shape]:
    try:
        with path.open("rb") as file:
            header = read_header(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    found = path.stat().st_size
    if found != header.file_size:
        raise CheckpointError(f"{path} has {found:,} bytes where its header says {header.file_size:,}.")
    return {name: entry.shape for name, entry in header.tensors.items()}


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} cannot be read as an index of weight files: {error}") from error
    paths = [index.parent / name for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(f"{index} names {', '.join(missing)}, which {index.parent} does not have.")
    return paths
