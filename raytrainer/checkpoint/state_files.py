"""The files of a checkpoint that hold training's state: optimizer, schedule, gradient scaler, trainer state.

Names and formats are those of ``transformers.Trainer``. Everything is read with ``weights_only``; what could not be
read back that way is refused when it is written, not when a run resumes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from raytrainer.checkpoint.background.staging import current_stage
from raytrainer.checkpoint.listed import listed_in
from raytrainer.checkpoint.names import (
    OPTIMIZER_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    SHARDED_OPTIMIZER_NAME,
    STATE_NAME,
)
from raytrainer.checkpoint.pickles import cause_of
from raytrainer.checkpoint.torch_files import check_readable, write_state
from raytrainer.errors import CheckpointError

_NUMPY_GLOBALS: list[Any] = [
    np.float64(0).__reduce__()[0],
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
]
"""What numpy's scalars are pickled with; a learning rate is often one."""


class Stateful(Protocol):
    """What optimizers, schedules and scalers have in common."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


def save_state(path: Path, part: Stateful) -> Path:
    """One rank: write the state of one object.

    Raises:
        CheckpointError: If it holds objects that could not be read back safely.
    """
    state, owner = part.state_dict(), type(part).__name__
    stage, allowed = current_stage(), allowed_objects()
    if stage is not None:
        stage.put_state(path, state, functools.partial(check_readable, owner=owner, allowed=allowed))
    else:
        write_state(path, state, owner=owner, allowed=allowed)
    return path


def allowed_objects() -> list[Any]:
    """What a state may hold besides what torch allows: that of transformers, and the scalars of numpy."""
    with safe_globals(), torch.serialization.safe_globals(_NUMPY_GLOBALS):
        return cast("list[Any]", torch.serialization.get_safe_globals())


def load_state(
    path: Path,
    part: Stateful,
    *,
    name: str | None = None,
    mapped: bool = False,
    check: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Read the state of one object.

    Args:
        path: The file.
        part: Takes the state.
        name: Its name in errors; its class by default.
        mapped: Map the file instead of reading it into memory.
        check: Raises if the state is not of the object's kind.

    Raises:
        CheckpointError: If the file is damaged, or holds the state of something else.
    """
    try:
        with safe_globals(), torch.serialization.safe_globals(_NUMPY_GLOBALS):
            state: dict[str, Any] = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mapped or None
            )
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read: {cause_of(error)}") from error
    if check is not None:
        check(state)
    try:
        part.load_state_dict(state)
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not fit the {name or type(part).__name__} of this run: {error}. Use the optimizer, schedule "
            "and trainable parameters that the checkpoint was saved with, or start from its weights alone."
        ) from error


def save_schedule(directory: Path, scheduler: Stateful) -> Path:
    """One rank: write the state of the schedule; return the file.

    Raises:
        CheckpointError: If the state holds objects that could not be read back safely.
    """
    return save_state(directory / SCHEDULER_NAME, scheduler)


def save_scaler(directory: Path, scaler: Stateful) -> Path:
    """One rank: write the state of the gradient scaler of fp16; return the file.

    Raises:
        CheckpointError: If the state holds objects that could not be read back safely.
    """
    return save_state(directory / SCALER_NAME, scaler)


def load_scaler(directory: Path, scaler: Stateful, *, report: Callable[[str], None]) -> None:
    """All ranks: restore the gradient scaler of fp16.

    Args:
        directory: The checkpoint.
        scaler: Gets the state.
        report: Called with one sentence if the checkpoint has none.

    Raises:
        CheckpointError: If its state is damaged or does not fit.
    """
    if (directory / SCALER_NAME).is_file() and listed_in(directory)(SCALER_NAME):
        load_state(directory / SCALER_NAME, scaler)
    else:
        report(f"{directory} has no {SCALER_NAME}; loss scaling starts fresh.")


def load_optimizer_and_schedule(
    directory: Path,
    *,
    load_optimizer: Callable[[Path], None],
    scheduler: Stateful,
    report: Callable[[str], None],
) -> bool:
    """All ranks: restore optimizer and schedule.

    Args:
        directory: The checkpoint.
        load_optimizer: Restores the optimizer from it; the backend knows how.
        scheduler: Of the same kind as when it was saved.
        report: Called with one sentence if the checkpoint was saved without them.

    Returns:
        False if it was.

    Raises:
        CheckpointError: If one is damaged, does not fit, or is there without the other.
    """
    optimizer_name = saved_optimizer_name(directory)
    is_listed = listed_in(directory)
    present = {
        name for name in (optimizer_name, SCHEDULER_NAME) if (directory / name).exists() and is_listed(name)
    }
    if not present:
        report(
            f"{directory} has no optimizer and schedule (save_only_model=True leaves them out); both start fresh, so "
            "the losses will differ from those of an uninterrupted run."
        )
        return False
    if len(present) == 1:
        raise CheckpointError(
            f"{directory} has {present.pop()}, but not both optimizer and schedule, which are saved together."
        )
    load_optimizer(directory)
    load_state(directory / SCHEDULER_NAME, scheduler)
    return True


def saved_optimizer_name(directory: Path) -> str:
    """The name under which a checkpoint has its optimizer, in shards or in one file."""
    is_sharded = (directory / SHARDED_OPTIMIZER_NAME).is_dir() and listed_in(directory)(
        SHARDED_OPTIMIZER_NAME
    )
    return SHARDED_OPTIMIZER_NAME if is_sharded else OPTIMIZER_NAME


def save_trainer_state(directory: Path, state: TrainerState) -> Path:
    """One rank: write ``trainer_state.json``; returns the file."""
    body = dataclasses.asdict(state)
    path = directory / STATE_NAME
    path.write_text(json.dumps(body, indent=2, sort_keys=True, default=_plain) + "\n", encoding="utf-8")
    return path


def load_trainer_state(directory: Path) -> TrainerState:
    """Read ``trainer_state.json``.

    Raises:
        CheckpointError: If it is missing, or ``TrainerState`` cannot be built from it.
    """
    path = directory / STATE_NAME
    try:
        return TrainerState.load_from_json(str(path))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as a trainer state: {error}") from error


def _plain(value: object) -> Any:
    """Convert scalars and arrays of numpy and torch in a user's logs, which JSON cannot hold."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return cast("Any", value).tolist()
    raise TypeError(
        f"trainer_state.json cannot hold a {type(value).__name__}; log numbers, strings, lists and dicts only."
    )
