"""The state of an optimizer whose parameters are sharded, and the ways between it and the whole state of one rank.

Every rank writes the runs that it holds (in DCP's form of safetensors files, so no pickle); what is no tensor is JSON.
State goes by the names of parameters, so a run with another number of ranks, another backend, or whole parameters
reads the runs that it needs; and a sharded run reads the ``optimizer.pt`` of a run with whole parameters.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from raytrainer.checkpoint import owned_state, zero_state
from raytrainer.checkpoint.names import SHARDED_OPTIMIZER_NAME, SHARDED_OPTIMIZER_VALUES
from raytrainer.checkpoint.sharded_weights import like
from raytrainer.errors import CheckpointError
from raytrainer.layout import flat_runs as zero
from raytrainer.layout.pieces import SLICES, Piece, contents, files_of, piece_of, read_into

_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def save_sharded_optimizer(model: nn.Module, optimizer: Any, directory: Path) -> list[Path]:
    """All ranks: write this rank's runs of the state, and rank 0 the rest; return what this rank wrote.

    Nothing is sent. The files are those of ``HuggingFaceStorageWriter``, which would first copy all slices.
    """
    target = directory / SHARDED_OPTIMIZER_NAME
    target.mkdir(parents=True, exist_ok=True)
    rank = dist.get_rank() if dist.is_initialized() else 0
    pieces, values = _state(model, optimizer)
    own = {name: piece for name, piece in pieces.items() if not piece.is_copy and piece.values.numel()}
    written = []
    if own:
        offsets = {name: {SLICES[1]: piece.offsets} for name, piece in own.items()}
        path = target / f"shard-{rank + 1:05d}.safetensors"
        safetensors.torch.save_file(
            {name: _writable(piece.values) for name, piece in own.items()},
            path,
            metadata={SLICES[0]: json.dumps(offsets), "format": "pt"},
        )
        written.append(path)
    if rank == 0:
        path = target / SHARDED_OPTIMIZER_VALUES
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        written.append(path)
    return written


def load_sharded_optimizer(model: nn.Module, optimizer: Any, directory: Path) -> None:
    """All ranks: read the runs that this rank needs, into sharded or whole parameters.

    Raises:
        CheckpointError: If the state is damaged, or that of another optimizer.
    """
    source = directory / SHARDED_OPTIMIZER_NAME
    try:
        found = json.loads((source / SHARDED_OPTIMIZER_VALUES).read_text(encoding="utf-8"))
        engine = zero.zero_of(optimizer)
        if engine is not None:
            zero_state.make_room(model, engine, _shapes(source))
            pieces, values = zero_state.state_of(model, engine)
            zero_state.set_values(model, engine, _filled(source, pieces, values, found))
        elif owned_state.keeps_by_parameter(optimizer):
            owned_state.load_state(model, optimizer, source, found)
        else:
            _ready_for_a_step(optimizer)
            tensors, values = _flat_state(model, optimizer)
            pieces = {name: piece_of(value) for name, value in tensors.items()}
            merged: Any = tensors | _filled(source, pieces, values, found)
            with _without_empty_groups(optimizer):
                set_optimizer_state_dict(model, optimizer, merged, options=_FLAT)
    except Exception as error:
        named = getattr(optimizer, "optimizer", optimizer)
        raise CheckpointError(
            f"{source} does not fit the {type(named).__name__} of this run: {error}. Use the optimizer and "
            "trainable parameters that the checkpoint was saved with, or start from its weights alone."
        ) from error


def _ready_for_a_step(optimizer: Any) -> None:
    """Have an optimizer in the mode in which it steps, since torch makes its state by a step."""
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()
        # Looking at state leaves empty entries, which count as state.
        for parameter in [one for one, entries in optimizer.state.items() if not entries]:
            del optimizer.state[parameter]


@contextlib.contextmanager
def _without_empty_groups(optimizer: Any) -> Iterator[None]:
    """Take groups of no parameter away for a while: torch finds the options of a group by its parameters."""
    empty = [(place, group) for place, group in enumerate(optimizer.param_groups) if not group["params"]]
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    try:
        yield
    finally:
        for place, group in empty:
            optimizer.param_groups.insert(place, group)


def _writable(values: torch.Tensor) -> torch.Tensor:
    # Several parameters may share a number, which a file does not allow.
    return values.cpu().contiguous() if values.dim() else values.cpu().clone()


def cut_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Cut the whole state of an optimizer, as ``optimizer.pt`` has it, like this rank's parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=False))
    owner_of: Any = getattr(optimizer, "owner_of", lambda parameter: None)

    def cut(number: Any, value: Any) -> Any:
        parameter = by_number.get(number)
        if not isinstance(value, torch.Tensor) or parameter is None or owner_of(parameter) is not None:
            return value
        return like(value, parameter.detach()) if value.shape == parameter.shape else value

    cut_all = {
        number: {key: cut(number, value) for key, value in entries.items()}
        for number, entries in state["state"].items()
    }
    return {**state, "state": cut_all}


def _state(model: nn.Module, optimizer: Any) -> tuple[dict[str, Piece], dict[str, Any]]:
    engine = zero.zero_of(optimizer)
    if engine is not None:
        return zero_state.state_of(model, engine)
    if owned_state.keeps_by_parameter(optimizer):
        return owned_state.state_of(model, optimizer)
    tensors, values = _flat_state(model, optimizer)
    return {name: piece_of(value) for name, value in tensors.items()}, values


def _flat_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State by parameter name: the tensors, and everything else."""
    flat: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_FLAT)
    tensors = {name: value for name, value in flat.items() if isinstance(value, torch.Tensor)}
    return tensors, {name: value for name, value in flat.items() if name not in tensors}


def _shapes(source: Path) -> dict[str, tuple[int, ...]]:
    """Of one run of each tensor of the state; () for a number."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files_of(source):
        with path.open("rb") as file:
            shapes |= {name: stored.shape for name, stored in contents(file).items()}
    return shapes


def _filled(
    source: Path, pieces: dict[str, Piece], values: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    """Read this rank's runs out of all files; return what is no tensor, in the types that it has now.

    Raises:
        KeyError: If a tensor is only on one side.
        ValueError: If elements are missing.
    """
    # An optimizer of inner ones writes fewer options of its groups than the inner one alone has.
    _check_same(_of_state(found), _of_state(values))
    left = {name: piece.values.numel() for name, piece in pieces.items()}
    names: set[str] = set()
    for path in files_of(source):
        with path.open("rb") as file:
            for name, stored in contents(file, SLICES).items():
                names.add(name)
                if name in pieces:
                    left[name] -= read_into(pieces[name], file, stored)
    _check_same(names, pieces.keys())
    short = sorted(name for name, count in left.items() if count)
    if short:
        raise ValueError(f"{left[short[0]]} elements of {short[0]} are in none of the files")
    return {name: _as(found.get(name, value), value) for name, value in values.items()}


def _of_state(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("param_groups.")}


def _check_same(found: Any, expected: Any) -> None:
    strange = sorted(set(found) ^ set(expected))
    if strange:
        raise KeyError(f"{strange[0]} is only on one side")


def _as(found: Any, value: Any) -> Any:
    return tuple(found) if isinstance(value, tuple) else found
