"""Optimizer state addressed by the names of parameters, whatever the layout of its tensors.

Each way in which an optimizer keeps state is one ``OptimizerState``. Names are those of torch's flattened optimizer
state (``state.<parameter>.exp_avg``, ``param_groups.<parameter>.lr``), so each reads what another has written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from raytrainer.checkpoint.per_parameter_state import PerParameterState, keeps_per_parameter
from raytrainer.checkpoint.sharded_state import fill_shards
from raytrainer.layout.shards import LocalShard
from raytrainer.layout.tensor_layout import local_shard

_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


class OptimizerState(Protocol):
    """The state of one optimizer on this rank."""

    def shards(self) -> tuple[dict[str, LocalShard], dict[str, Any]]:
        """All ranks: the tensors that this rank holds, and everything else, as plain JSON values on rank 0."""
        ...

    def restore(self, source: Path, values: dict[str, Any]) -> None:
        """All ranks: read this rank's part of a saved state.

        Args:
            source: The directory of the files of shards.
            values: The saved values that are not tensors.

        Raises:
            KeyError: If a tensor is only on one side.
            ValueError: If elements are missing, or the state is that of another optimizer.
        """
        ...


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> OptimizerState:
    """The state of an optimizer that steps a model's own parameters, full or sharded."""
    if keeps_per_parameter(optimizer):
        return PerParameterState(model, optimizer)
    return TorchState(model, optimizer)


class TorchState:
    """The state of an optimizer of torch's kind, which torch itself flattens."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer

    def shards(self) -> tuple[dict[str, LocalShard], dict[str, Any]]:
        tensors, values = self._flat()
        return {name: local_shard(value) for name, value in tensors.items()}, values

    def restore(self, source: Path, values: dict[str, Any]) -> None:
        _prepare_to_step(self._optimizer)
        tensors, expected = self._flat()
        shards = {name: local_shard(value) for name, value in tensors.items()}
        merged: dict[str, Any] = {**tensors, **fill_shards(source, shards, expected, values)}
        with _without_empty_groups(self._optimizer):
            set_optimizer_state_dict(self._model, self._optimizer, merged, options=_FLAT)

    def _flat(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        flat: dict[str, Any] = get_optimizer_state_dict(self._model, self._optimizer, options=_FLAT)
        tensors = {name: value for name, value in flat.items() if isinstance(value, torch.Tensor)}
        return tensors, {name: value for name, value in flat.items() if name not in tensors}


def _prepare_to_step(optimizer: Any) -> None:
    """Put an optimizer into the mode in which it steps, since torch creates its state by a step."""
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()
        # Looking at state leaves empty entries, which count as state.
        for parameter in [one for one, entries in optimizer.state.items() if not entries]:
            del optimizer.state[parameter]


@contextlib.contextmanager
def _without_empty_groups(optimizer: torch.optim.Optimizer) -> Generator[None]:
    """Take groups without parameters away for a while: torch finds the options of a group by its parameters."""
    empty = [(place, group) for place, group in enumerate(optimizer.param_groups) if not group["params"]]
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    try:
        yield
    finally:
        # Loading a state replaces the list itself.
        for place, group in empty:
            optimizer.param_groups.insert(place, group)
