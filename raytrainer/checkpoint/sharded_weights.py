"""Weights of a model whose parameters are sharded over ranks, in the files that everybody reads.

Every rank writes whole tensors, each tensor one rank, so the files are those of ``from_pretrained`` (safetensors with
an index), every byte is written once, and no rank ever holds more than its own files and one more tensor. Reading goes
the other way: each rank reads the slices that it holds, whatever number of ranks wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from raytrainer.checkpoint.model_match import converted_shapes, tied_names
from raytrainer.checkpoint.names import WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from raytrainer.errors import CheckpointError
from raytrainer.layout import flat_runs as zero
from raytrainer.layout.pieces import contents, fill, is_in_pieces, piece_of, read_into, whole


def is_sharded(model: nn.Module) -> bool:
    """Whether ranks hold parts of the parameters only."""
    return any(is_in_pieces(parameter) for parameter in model.parameters())


def gather_weights(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """All ranks: the whole ``state_dict`` on the CPU of rank 0, tensor by tensor; None on the others."""
    is_first = _rank() == 0
    gathered: dict[str, torch.Tensor] = {}
    for name, value in _tensors(model).items():
        tensor = whole(value)
        if is_first:
            gathered[name] = tensor.cpu()
    return gathered if is_first else None


def is_saved_in_parts(model: nn.Module) -> bool:
    """Whether the names of a model in memory are those of its files, so that every rank can write some of them."""
    return isinstance(model, PreTrainedModel) and converted_shapes(model) is None


def save_in_parts(model: Any, directory: Path) -> None:
    """All ranks: write the weights and configuration of a transformers model, each rank its share of the tensors."""
    rank, world_size = _rank(), dist.get_world_size() if dist.is_initialized() else 1
    tensors = dict(_saved_tensors(model))
    owners = share_out({name: _num_bytes(tensor) for name, tensor in tensors.items()}, world_size)
    num_files = len(set(owners.values()))
    own: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        tensor = whole(value)
        if owners[name] == rank:
            own[name] = tensor.cpu().contiguous()
    # Storage may fail on one rank, so it comes after the last collective.
    directory.mkdir(parents=True, exist_ok=True)
    if own:
        safetensors.torch.save_file(own, directory / part_name(rank, num_files), metadata={"format": "pt"})
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
    """Cut a list of tensors into at most ``count`` runs of about the same number of bytes.

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
    """All ranks: read each rank's rows of weights in safetensors, whose names are those of the model in memory.

    Args:
        model: Is changed.
        paths: The files of the weights.

    Raises:
        CheckpointError: If a weight is not there, or a file is damaged.
    """
    state = _tensors(model)
    left_out = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    wanted = {name: piece_of(value) for name, value in state.items() if name not in left_out}
    present: set[str] = set()
    for path in paths:
        try:
            with path.open("rb") as file:
                for name, stored in contents(file).items():
                    if name in wanted:
                        read_into(wanted[name], file, stored)
                        present.add(name)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    # Of tied weights one name is enough.
    present |= {name for names in tied_names(state) if present & set(names) for name in names}
    missing = sorted(wanted.keys() - present)
    if missing:
        raise CheckpointError(f"The weights of {', '.join(missing[:3])} are in none of the files.")
    zero.publish(model)


def spread(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """All ranks: copy a whole ``state_dict``, which every rank holds, into the shards."""
    for name, target in _tensors(model).items():
        if name in weights:
            fill(piece_of(target), weights[name])
    zero.publish(model)


def like(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cut a whole tensor, which every rank holds, as another one is cut; nothing is sent."""
    if not isinstance(target, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(
        value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
    )


def _saved_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """What a file holds: tied weights once, under the name that transformers keeps."""
    state = _tensors(model)
    declared = set(getattr(model, "all_tied_weights_keys", None) or ())
    left_out = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    for names in tied_names(state):
        kept = next((name for name in names if name not in declared), names[0])
        left_out |= {name for name in names if name != kept}
    for name, value in state.items():
        if name not in left_out:
            yield name, value


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    state = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _save_configuration(model: Any, directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    model.config.architectures = [original_class(model).__name__]
    kept = [dtype for dtype in map(zero.saved_dtype, tensors.values()) if dtype.is_floating_point]
    model.config.dtype = str(kept[0] if kept else model.dtype).removeprefix("torch.")
    model.config.save_pretrained(directory)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(directory)


def original_class(model: nn.Module) -> type:
    """The user's class of a model: ``fully_shard`` puts one of its own in front."""
    found = type(model)
    return next(base for base in found.__mro__ if not base.__name__.startswith("FSDP"))


def _num_bytes(tensor: torch.Tensor) -> int:
    return zero.shape_of(tensor).numel() * zero.saved_dtype(tensor).itemsize


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
