"""Which files of a directory hold a model's weights, and what their headers say.

A safetensors file begins with the names, shapes and byte ranges of its tensors, so names, shapes and a truncated end
are known without reading a tensor. Neither torch nor safetensors is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytrainer.checkpoint.listed import listed_in
from raytrainer.checkpoint.names import (
    ADAPTER_WEIGHTS_NAME,
    TORCH_ADAPTER_WEIGHTS_NAME,
    TORCH_WEIGHTS_INDEX_NAME,
    TORCH_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from raytrainer.checkpoint.regular_files import open_regular, read_regular
from raytrainer.checkpoint.safetensors_header import Shape, read_header
from raytrainer.errors import CheckpointError

_WEIGHTS = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, TORCH_WEIGHTS_NAME, TORCH_WEIGHTS_INDEX_NAME)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFiles:
    """The files that hold a model's weights."""

    paths: list[Path]
    are_safetensors: bool


def find_weights(directory: Path) -> WeightFiles | None:
    """Find the weights of a full model, as one file or in shards; safetensors first.

    In a checkpoint these are files that its manifest lists, unless all of those are gone (``converted``).

    Raises:
        CheckpointError: If an index cannot be read or names a file that does not exist.
    """
    counts = _counting_in(directory)
    for name, index_name, is_safe in (
        (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, True),
        (TORCH_WEIGHTS_NAME, TORCH_WEIGHTS_INDEX_NAME, False),
    ):
        if counts(name):
            return WeightFiles(paths=[directory / name], are_safetensors=is_safe)
        if counts(index_name):
            return WeightFiles(paths=_shards(directory / index_name), are_safetensors=is_safe)
    return None


def _counting_in(directory: Path) -> Callable[[str], bool]:
    is_listed = listed_in(directory)
    there = [name for name in _WEIGHTS if (directory / name).is_file()]
    listed = [name for name in there if is_listed(name)]
    return lambda name: name in (listed or there)


def find_adapter(directory: Path) -> Path | None:
    """Find the weights of an adapter (PEFT), in the directory or in one of its folders."""
    is_listed = listed_in(directory)
    for name in (ADAPTER_WEIGHTS_NAME, TORCH_ADAPTER_WEIGHTS_NAME):
        for path in (directory / name, *sorted(directory.glob(f"*/{name}"))):
            if path.is_file() and is_listed(path.relative_to(directory).as_posix()):
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
        with open_regular(path) as file:
            header = read_header(file)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    found = path.stat().st_size
    if found != header.file_size:
        raise CheckpointError(f"{path} has {found:,} bytes where its header says {header.file_size:,}.")
    return {name: entry.shape for name, entry in header.tensors.items()}


def _shards(index: Path) -> list[Path]:
    try:
        names: list[Any] = sorted(set(json.loads(read_regular(index))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} cannot be read as an index of weight files: {error}") from error
    if any(not isinstance(name, str) or Path(name).name != name or "\0" in name for name in names):
        raise CheckpointError(f"{index} names files outside its directory.")
    paths = [index.parent / name for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(f"{index} names {', '.join(missing)}, which {index.parent} does not have.")
    return paths
