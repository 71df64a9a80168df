"""Optimizer state in shards: every rank writes the shards that it holds, and reads those that it needs.

The files are those of torch's distributed checkpoints in safetensors, so nothing is pickled; what is not a tensor is
JSON. State goes by the names of parameters, so a run with another number of ranks, another backend, or full parameters
reads it too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import torch

from raytrainer.checkpoint.names import SHARDED_OPTIMIZER_NAME, SHARDED_OPTIMIZER_VALUES
from raytrainer.checkpoint.optimizer_match import saved_optimizer
from raytrainer.checkpoint.safetensors_header import Shape
from raytrainer.checkpoint.shard_files import read_into, shard_paths, slice_metadata, stored_shards
from raytrainer.checkpoint.tensor_files import write_tensors
from raytrainer.errors import CheckpointError
from raytrainer.layout.ranks import current_rank
from raytrainer.layout.shards import LocalShard


def write_sharded_state(directory: Path, shards: dict[str, LocalShard], values: dict[str, Any]) -> list[Path]:
    """All ranks: write this rank's shards, and on rank 0 the rest; nothing is communicated.

    Args:
        directory: The checkpoint.
        shards: What this rank holds, by name.
        values: Everything that is not a tensor; rank 0's are written.

    Returns:
        The files that this rank wrote.
    """
    target = directory / SHARDED_OPTIMIZER_NAME
    target.mkdir(parents=True, exist_ok=True)
    rank = current_rank()
    own = {name: shard for name, shard in shards.items() if not shard.is_copy and shard.values.numel()}
    written: list[Path] = []
    if own:
        path = target / f"shard-{rank + 1:05d}.safetensors"
        tensors = {name: _writable(shard.values) for name, shard in own.items()}
        write_tensors(path, tensors, metadata=slice_metadata(own))
        written.append(path)
    if rank == 0:
        path = target / SHARDED_OPTIMIZER_VALUES
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        written.append(path)
    return written


def read_values(source: Path) -> dict[str, Any]:
    """Everything in a directory of sharded state that is not a tensor, by name."""
    values: dict[str, Any] = json.loads((source / SHARDED_OPTIMIZER_VALUES).read_text(encoding="utf-8"))
    return values


def read_state_shapes(source: Path) -> dict[str, Shape]:
    """The shape of one shard of each tensor in a directory of sharded state; () for a number."""
    shapes: dict[str, Shape] = {}
    for path in shard_paths(source):
        with path.open("rb") as file:
            shapes |= {name: stored.shape for name, stored in stored_shards(file).items()}
    return shapes


def fill_shards(
    source: Path, shards: dict[str, LocalShard], values: dict[str, Any], saved: dict[str, Any]
) -> dict[str, Any]:
    """Read this rank's shards out of all files.

    Args:
        source: The directory of the files.
        shards: What this rank needs, by name; filled in place.
        values: What is not a tensor, as it is now.
        saved: What is not a tensor, as it was saved.

    Returns:
        The saved values, in the types that they have now.

    Raises:
        KeyError: If a tensor is only on one side.
        ValueError: If elements are missing.
    """
    # An optimizer of inner ones writes fewer options of its groups than the inner one alone has.
    _check_same(_of_state(saved), _of_state(values))
    left = {name: shard.values.numel() for name, shard in shards.items()}
    names: set[str] = set()
    for path in shard_paths(source):
        with path.open("rb") as file:
            for name, stored in stored_shards(file).items():
                names.add(name)
                if name in shards:
                    left[name] -= read_into(shards[name], file, stored)
    _check_same(names, shards.keys())
    short = sorted(name for name, count in left.items() if count)
    if short:
        raise ValueError(f"no file holds {left[short[0]]} elements of {short[0]}")
    return {name: _as(saved.get(name, value), value) for name, value in values.items()}


@contextlib.contextmanager
def mismatch_explained(source: Path, optimizer_name: str) -> Generator[None]:
    """Turn what goes wrong while a state is read into an error that names the files and the optimizer.

    Raises:
        CheckpointError: If anything does.
    """
    try:
        yield
    except Exception as error:
        saved = saved_optimizer(source.parent)
        with_what = f" (optim={saved!r})" if saved else ""
        raise CheckpointError(
            f"{source} does not fit the {optimizer_name} of this run: {error}. Use the optimizer{with_what} and "
            "trainable parameters that the checkpoint was saved with, or start from its weights alone."
        ) from error


def _writable(values: torch.Tensor) -> torch.Tensor:
    # Several parameters may share a number, which a file does not allow.
    return values.cpu().contiguous() if values.dim() else values.cpu().clone()


def _of_state(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("param_groups.")}


def _check_same(found: Iterable[str], expected: Iterable[str]) -> None:
    unmatched = sorted(set(found) ^ set(expected))
    if unmatched:
        raise KeyError(f"{unmatched[0]} is only on one side")


def _as(found: Any, value: Any) -> Any:
    return tuple(found) if isinstance(value, tuple) else found
