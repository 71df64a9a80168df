"""Reads and writes files of full tensors in the safetensors format.

Every file says in its metadata that its tensors are torch's, because transformers refuses a file that does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from raytrainer.checkpoint.background.images import has_header
from raytrainer.checkpoint.background.staging import current_stage
from raytrainer.errors import CheckpointError

TORCH_METADATA = {"format": "pt"}


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], *, metadata: Mapping[str, str] = TORCH_METADATA
) -> None:
    """Write tensors to one file.

    Args:
        path: The file; replaced if it exists.
        tensors: Name -> tensor ``[...]``; contiguous, each with its own memory.
        metadata: Text stored in the header of the file.
    """
    stage = current_stage()
    if stage is not None and has_header(tensors):
        stage.put_tensors(path, tensors, metadata)
        return
    untyped: Any = safetensors.torch
    untyped.save_file(tensors, path, metadata=dict(metadata))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors ``[...]`` of a file into CPU memory, by name.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    untyped: Any = safetensors.torch
    try:
        return untyped.load_file(path, device="cpu")
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def each_tensor(paths: Iterable[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """Read the tensors ``[...]`` of several files one at a time: file by file, by name within a file."""
    untyped: Any = safetensors
    for path in paths:
        with untyped.safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name)
