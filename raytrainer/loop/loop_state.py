"""What a checkpoint keeps of the loop, in ``loop_state.json``: the files of transformers have no place for it.

The exact position in the data, the log window that the checkpoint cuts in two, and what a trainer of one task adds.
The file is written and read here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from raytrainer.checkpoint.listed import listed_in
from raytrainer.checkpoint.names import LOOP_STATE_NAME
from raytrainer.errors import CheckpointError
from raytrainer.loop.plan import Cursor

NAME = LOOP_STATE_NAME
FORMAT = 3
"""Of the file. Files without a number are the oldest."""
_ADDED_IN_2 = frozenset(
    {"trainable", "called_at", "is_at_epoch_end", "window_empty_steps", "logged_empty_steps"}
)
_ADDED_IN_3 = frozenset({"num_more_epochs", "global_batch_size"})
_MAY_LACK: dict[int, frozenset[str]] = {
    0: _ADDED_IN_3 | _ADDED_IN_2 | {"stream", "model_divides", "task"},
    1: _ADDED_IN_3 | _ADDED_IN_2,
    2: _ADDED_IN_3,
}
"""Format -> keys that files of it may lack."""


@dataclass(kw_only=True, slots=True)
class LoopState:
    """Where the loop of a run stands."""

    cursor: Cursor
    """With the rounds of the epoch that are done as its micro-batches: those of each of the largest number of ranks."""
    round_size: int
    """Samples of one micro-batch over all ranks, in which the cursor counts [samples]."""
    global_batch_size: int | None = None
    """Of a full step over all ranks [samples]; None in files that do not say."""
    stream: dict[str, Any] | None = None
    """Position of a dataset that is a stream; None for one with a length."""
    window_sum: float
    """Mean over ranks of the losses since the last log, summed over steps."""
    window_empty_steps: float = 0.0
    """Steps without a target since the last log, mean over ranks."""
    logged_step: int
    """Step of the last log."""
    logged_total: float
    """Sum of the losses that were logged, over steps."""
    logged_empty_steps: float = 0.0
    """Steps without a target that were logged, mean over ranks."""
    first_step: int
    """Step at which this ``train()`` call began."""
    called_at: float | None = None
    """Wall time at which it began [seconds since the epoch]."""
    reported_bad_loss: bool
    """A loss that is not finite has been reported."""
    model_divides: bool | None = None
    """The model was seen to divide its loss by ``num_items_in_batch``; None if nothing was seen."""
    trainable: dict[str, Any] | None = None
    """Names of parameters that were frozen or unfrozen after the optimizer was built (``loop.trainable``)."""
    task: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the trainer of one task (``SFTTrainer``) keeps."""

    def write(self, directory: Path) -> Path:
        """Write the file into a directory; return its path."""
        path = directory / NAME
        path.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n")
        return path


def read_loop_state(checkpoint: Path) -> LoopState | None:
    """Read the file of a checkpoint; None in one that transformers wrote.

    Raises:
        CheckpointError: If it is damaged, or another version of raytrainer wrote what this one cannot read.
    """
    path = checkpoint / NAME
    if not path.is_file() or not listed_in(checkpoint)(NAME):
        return None
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}. {_WHAT_TO_DO}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, expected an object. {_WHAT_TO_DO}")
    saved = cast("dict[str, Any]", found)
    number = saved.pop("format", 0)
    if number not in range(FORMAT + 1):
        raise CheckpointError(
            f"{path} has format {number!r}, and this version of raytrainer reads formats up to {FORMAT}. {_WHAT_TO_DO}"
        )
    optional = _MAY_LACK.get(number, frozenset[str]())
    _check_keys(path, "", saved, names=_names_of(LoopState), optional=optional)
    if not isinstance(saved["cursor"], dict):
        raise CheckpointError(f"{path} has a cursor that is not an object. {_WHAT_TO_DO}")
    cursor = cast("dict[str, Any]", saved.pop("cursor"))
    _check_keys(path, "cursor.", cursor, names=_names_of(Cursor), optional=optional)
    return LoopState(cursor=Cursor(**cursor), **saved)


_WHAT_TO_DO = "Resume from another checkpoint, or with the version of raytrainer that wrote this one."


def _names_of(kind: type[LoopState] | type[Cursor]) -> list[str]:
    return [one.name for one in dataclasses.fields(kind)]


def _check_keys(
    path: Path, prefix: str, found: dict[str, Any], *, names: Iterable[str], optional: frozenset[str]
) -> None:
    unknown = sorted(found.keys() - set(names))
    missing = sorted(set(names) - found.keys() - optional)
    said = [f"unknown {prefix}{name}" for name in unknown] + [f"no {prefix}{name}" for name in missing]
    if said:
        raise CheckpointError(f"{path} has {', '.join(said)}. {_WHAT_TO_DO}")
