"""Weights of a model whose parameters are distributed over ranks, in the files that every library reads.

Each tensor is gathered and written in full by one rank, so the files are those of ``from_pretrained`` (safetensors
with an index), every byte is written once, and no rank ever holds more than its own files and one more tensor. To load,
each rank reads the slices that it holds, whatever number of ranks wrote the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raytrainer.checkpoint.model_classes import is_transformers_model
from raytrainer.checkpoint.model_match import converted_shapes, tied_names
from raytrainer.checkpoint.names import WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from raytrainer.checkpoint.shard_files import read_into, stored_shards
from raytrainer.checkpoint.tensor_files import write_tensors
from raytrainer.errors import CheckpointError
from raytrainer.layout.ranks import current_rank, num_ranks
from raytrainer.layout.tensor_layout import full_shape, full_tensor, local_shard, publish, trained_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def gather_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """All ranks: the full ``state_dict`` on the CPU of rank 0, tensors ``[full shape]``; {} on the others."""
    is_first = current_rank() == 0
    gathered: dict[str, torch.Tensor] = {}
    for name, value in _tensors(model).items():
        tensor = full_tensor(value)
        if is_first:
            gathered[name] = tensor.cpu()
    return gathered


def is_saved_in_parts(model: nn.Module) -> bool:
    """Whether the names of a model in memory are those of its files, so that every rank can write some of them."""
    return is_transformers_model(model) and converted_shapes(model) is None


def save_in_parts(model: PreTrainedModel, directory: Path) -> None:
    """All ranks: write the weights and configuration of a transformers model, each rank its share of the tensors."""
    rank = current_rank()
    tensors = dict(_saved_tensors(model))
    owners = share_out({name: _num_bytes(tensor) for name, tensor in tensors.items()}, num_ranks())
    num_files = len(set(owners.values()))
    own: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        tensor = full_tensor(value)
        if owners[name] == rank:
            own[name] = tensor.cpu().contiguous()
    # Storage may fail on one rank, so it comes after the last collective.
    directory.mkdir(parents=True, exist_ok=True)
    if own:
        write_tensors(directory / part_name(rank, num_files), own)
    if rank == 0:
        _save_configuration(model, directory, tensors)
        if num_files > 1:
            index = {
                "metadata": {"total_size": sum(map(_num_bytes, tensors.values()))},
                "weight_map": {name: part_name(owner, num_files) for name, owner in sorted(owners.items())},
            }
            (directory / WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def part_name(index: int, count: int) -> str:
    """The file of one of several parts of the weights."""
    return WEIGHTS_NAME if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def share_out(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Split a list of tensors into at most ``count`` consecutive runs of about the same number of bytes.

    Args:
        sizes: Of the tensors, by name [bytes].
        count: Number of ranks that write.

    Returns:
        The number of each tensor's run, counted from 0 without gaps.
    """
    total = max(1, sum(sizes.values()))
    owners: dict[str, int] = {}
    done = last = 0
    for name, size in sizes.items():
        middle = (2 * done + size) * count // (2 * total)
        # A large tensor may jump over a run, which would leave a number without a file.
        last = min(middle, last + 1, count - 1) if owners else 0
        owners[name] = last
        done += size
    return owners


def load_sharded_weights(model: nn.Module, paths: Iterable[Path]) -> None:
    """All ranks: read what each rank holds out of safetensors files whose names are those of the model in memory.

    Raises:
        CheckpointError: If a weight is missing, or a file is damaged.
    """
    state = _tensors(model)
    left_out: set[str] = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    wanted = {name: local_shard(value) for name, value in state.items() if name not in left_out}
    present: set[str] = set()
    for path in paths:
        try:
            with path.open("rb") as file:
                for name, stored in stored_shards(file).items():
                    if name in wanted:
                        read_into(wanted[name], file, stored)
                        present.add(name)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    # Of tied weights one name is enough.
    present |= {name for names in tied_names(state) if present & set(names) for name in names}
    missing = sorted(wanted.keys() - present)
    if missing:
        raise CheckpointError(f"No file holds the weights {', '.join(missing[:3])}.")
    publish(model)


def copy_full_state(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """All ranks: copy a full ``state_dict`` (``[full shape]``, on every rank) into each rank's part of a model."""
    for name, target in _tensors(model).items():
        if name in weights:
            local_shard(target).copy_from(weights[name])
    publish(model)


def _saved_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What a file holds: tied weights once, under the name that transformers keeps."""
    state = _tensors(model)
    declared: set[str] = set(getattr(model, "all_tied_weights_keys", None) or ())
    left_out: set[str] = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    for names in tied_names(state):
        kept = next((name for name in names if name not in declared), names[0])
        left_out |= {name for name in names if name != kept}
    for name, value in state.items():
        if name not in left_out:
            yield name, value


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _save_configuration(model: PreTrainedModel, directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    config: Any = model.config
    config.architectures = [original_class(model).__name__]
    kept = [dtype for dtype in map(trained_dtype, tensors.values()) if dtype.is_floating_point]
    config.dtype = str(kept[0] if kept else model.dtype).removeprefix("torch.")
    config.save_pretrained(directory)
    # Only models that generate have one.
    generation_config: Any = model.generation_config if model.can_generate() else None
    if generation_config is not None:
        generation_config.save_pretrained(directory)


def original_class(model: nn.Module) -> type:
    """The user's class of a model, in front of which ``fully_shard`` puts one of its own."""
    found = type(model)
    return next(base for base in found.__mro__ if not base.__name__.startswith("FSDP"))


def _num_bytes(tensor: torch.Tensor) -> int:
    return full_shape(tensor).numel() * trained_dtype(tensor).itemsize
