"""The files of a checkpoint that hold training's state: optimizer, schedule, gradient scaler, trainer state.

Names and formats are those of ``transformers.Trainer``. Everything is read with ``weights_only``; what could not be
read back that way is refused when it is written, not when somebody needs it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from raytrainer.checkpoint.model_files import load_model_weights, save_model_weights
from raytrainer.checkpoint.names import (
    OPTIMIZER_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    SHARDED_OPTIMIZER_NAME,
    STATE_NAME,
)
from raytrainer.checkpoint.sharded_optimizer import cut_state, load_sharded_optimizer
from raytrainer.checkpoint.sharded_weights import is_sharded
from raytrainer.checkpoint.zero_state import WholeState
from raytrainer.errors import CheckpointError
from raytrainer.layout.flat_runs import zero_of

__all__ = [
    "load_model_weights",
    "load_optimizer_files",
    "load_trainer_state",
    "save_model_weights",
    "save_optimizer_files",
    "save_trainer_state",
]

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """What optimizers, schedules and scalers have in common."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


def save_optimizer_files(
    directory: Path, *, optimizer: Stateful | None, scheduler: Stateful, scaler: Stateful | None = None
) -> list[Path]:
    """One rank: write the states of optimizer (unless it lies there in shards), schedule and gradient scaler, if any.

    Raises:
        CheckpointError: If a state holds objects that could not be read back safely.
    """
    parts: dict[str, Stateful | None] = {
        OPTIMIZER_NAME: optimizer,
        SCHEDULER_NAME: scheduler,
        SCALER_NAME: scaler,
    }
    written = []
    for name, part in parts.items():
        if part is not None:
            torch.save(part.state_dict(), directory / name)
            _check_loads_safely(directory / name, part)
            written.append(directory / name)
    return written


def load_optimizer_files(
    directory: Path,
    *,
    model: nn.Module,
    optimizer: Any,
    scheduler: Stateful,
    scaler: Stateful | None = None,
    device: torch.device | None = None,
) -> bool:
    """All ranks: restore optimizer, schedule and gradient scaler.

    Args:
        directory: The checkpoint.
        model: Of the optimizer, wrapped or not; its parameters may be whole or sharded, whatever was saved.
        optimizer: Of the same kind, on the same parameters, as when it was saved.
        scheduler: Likewise.
        scaler: Likewise, if this run has one.
        device: Where the parameters live. Off the CPU the file is mapped and not read into each rank's memory.

    Returns:
        False if the checkpoint was saved without them; a warning says so.

    Raises:
        CheckpointError: If one is damaged, does not fit, or is there without the other.
    """
    in_shards = (directory / SHARDED_OPTIMIZER_NAME).is_dir()
    optimizer_name = SHARDED_OPTIMIZER_NAME if in_shards else OPTIMIZER_NAME
    present = {name for name in (optimizer_name, SCHEDULER_NAME) if (directory / name).exists()}
    if not present:
        logger.warning(
            "%s has no optimizer and schedule (save_only_model=True leaves them out); both begin anew, so the losses "
            "will not be those of a run that was not interrupted.",
            directory,
        )
        return False
    if len(present) == 1:
        raise CheckpointError(
            f"{directory} has {present.pop()}, but not the other of optimizer and schedule."
        )
    # On the CPU the state would keep the map, and a file that is deleted or replaced later would pull it away.
    mapped = device is not None and device.type != "cpu"
    if in_shards:
        load_sharded_optimizer(model, optimizer, directory)
    else:
        engine = zero_of(optimizer)
        target = optimizer if engine is None else WholeState(engine)
        cut = cut_state if is_sharded(model) and engine is None else None
        _restore(directory / OPTIMIZER_NAME, target, mapped=mapped, cut=cut)
    _restore(directory / SCHEDULER_NAME, scheduler)
    if scaler is not None:
        if (directory / SCALER_NAME).is_file():
            _restore(directory / SCALER_NAME, scaler)
        else:
            logger.warning("%s has no %s; loss scaling begins anew.", directory, SCALER_NAME)
    return True


def save_trainer_state(
    directory: Path, state: TrainerState, *, callback_states: dict[str, Any] | None = None
) -> Path:
    """One rank: write ``trainer_state.json``.

    Args:
        directory: The checkpoint.
        state: Is not changed.
        callback_states: Replaces the callback states that ``state`` carries.
    """
    body = dataclasses.asdict(state)
    if callback_states is not None:
        body["stateful_callbacks"] = callback_states
    path = directory / STATE_NAME
    path.write_text(json.dumps(body, indent=2, sort_keys=True, default=_plain) + "\n", encoding="utf-8")
    return path


def load_trainer_state(directory: Path) -> TrainerState:
    """Read ``trainer_state.json``.

    Raises:
        CheckpointError: If it is missing or not what ``TrainerState`` can be made of.
    """
    path = directory / STATE_NAME
    try:
        return TrainerState.load_from_json(str(path))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as a trainer state: {error}") from error


def _restore(path: Path, part: Any, *, mapped: bool = False, cut: Callable[..., Any] | None = None) -> None:
    try:
        with safe_globals(), torch.serialization.safe_globals([_numpy_scalar(), *_numpy_scalar_dtypes()]):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    try:
        part.load_state_dict(state if cut is None else cut(part, state))
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not fit the {type(part).__name__} of this run: {error}. Use the optimizer, schedule and "
            "trainable parameters that the checkpoint was saved with, or start from its weights alone."
        ) from error


def _check_loads_safely(path: Path, part: Stateful) -> None:
    with safe_globals(), torch.serialization.safe_globals([_numpy_scalar(), *_numpy_scalar_dtypes()]):
        unsafe = get_unsafe_globals_in_checkpoint(path)
    if unsafe:
        raise CheckpointError(
            f"The state of {type(part).__name__} holds {', '.join(sorted(unsafe)[:3])}, which torch.load refuses with "
            "weights_only, so no run could resume from it. Keep tensors, numbers, strings, lists and dicts in its "
            "state_dict()."
        )


def _numpy_scalar() -> Any:
    """What numpy's scalars are pickled with; a learning rate is often one."""
    return np.float64(0).__reduce__()[0]


def _numpy_scalar_dtypes() -> list[type]:
    return [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]


def _plain(value: Any) -> Any:
    """What JSON cannot hold in a user's logs: scalars and arrays of numpy and torch."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    raise TypeError(
        f"trainer_state.json cannot hold a {type(value).__name__}; log numbers, strings, lists and dicts only."
    )
