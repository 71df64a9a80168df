"""What the directories and files of checkpoints are called.

A checkpoint is a directory ``checkpoint-{step}`` with the file names of ``transformers.Trainer``. Everything
that is not a checkpoint, or no longer one, has a name that begins with a dot, so that neither this package nor
transformers (which looks for ``checkpoint-*``) mistakes it for one:

    .checkpoint-{step}.writing-{token}   being written; becomes checkpoint-{step} by one rename
    .checkpoint-{step}.replaced-{token}  was checkpoint-{step} until a new one of that step took its place
    .checkpoint-{step}.deleting-{token}  being deleted
    .checkpoint-{step}.uploading-{token} what an upload reads; links to the files of a checkpoint

One that another run wrote, and whose name a run needs, is moved to ``earlier-runs`` (see ``ownership``).

A bucket has no renames: there an incomplete checkpoint has its own name and a marker in it (``remote.contents``).

This file only names and lists; it never opens or changes anything.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from raytrainer.errors import CheckpointError

MANIFEST_NAME = "manifest.json"
STATE_NAME = "trainer_state.json"
ARGUMENTS_NAME = "training_args.json"
LOOP_STATE_NAME = "loop_state.json"
"""Written by this package alone."""
OPTIMIZER_NAME = "optimizer.pt"
SCHEDULER_NAME = "scheduler.pt"
SCALER_NAME = "scaler.pt"
SHARDED_OPTIMIZER_NAME = "optimizer"
"""Directory of an optimizer's state in shards."""
SHARDED_OPTIMIZER_VALUES = "values.json"
WEIGHTS_NAME = "model.safetensors"
WEIGHTS_INDEX_NAME = "model.safetensors.index.json"
TORCH_WEIGHTS_NAME = "pytorch_model.bin"
TORCH_WEIGHTS_INDEX_NAME = "pytorch_model.bin.index.json"
ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
TORCH_ADAPTER_WEIGHTS_NAME = "adapter_model.bin"
INCOMPLETE_NAME = "checkpoint-is-incomplete.txt"
"""Left by the just-in-time checkpoints of transformers while they write; also marks an incomplete one in a bucket."""

LAST_CHECKPOINT_NAME = "last-checkpoint"
"""Directory of a repository on the Hub that holds the newest checkpoint, and of a copy of it."""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_LEFTOVER = re.compile(r"\.checkpoint-(\d+)\.(writing|replaced|deleting|uploading)-.+")
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
"""What is replaced where the id of a run becomes a part of a name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftover:
    """A directory that a process left behind when it was killed."""

    path: Path
    step: int
    kind: str
    """"writing", "replaced", "deleting" or "uploading"."""


def checkpoint_name(step: int) -> str:
    """The directory of the checkpoint of a step."""
    return f"checkpoint-{step}"


def writing_name(step: int, run_id: str, attempt: int) -> str:
    """Return the directory name in which one attempt writes a checkpoint; the same on all of its ranks.

    Args:
        step: Steps that the checkpoint has trained.
        run_id: The run.
        attempt: Number of the attempt.
    """
    return f".checkpoint-{step}.writing-{NOT_IN_NAMES.sub('_', run_id)}-{attempt}"


def replaced_name(step: int) -> str:
    """A new name for a checkpoint that another one of its step replaces."""
    return f".checkpoint-{step}.replaced-{secrets.token_hex(4)}"


def deleting_name(step: int) -> str:
    """A new name for a directory that is about to be deleted."""
    return f".checkpoint-{step}.deleting-{secrets.token_hex(4)}"


def uploading_name(step: int) -> str:
    """The directory that holds the files of one upload."""
    return f".checkpoint-{step}.uploading-{secrets.token_hex(4)}"


def rng_name(rank: int, world_size: int) -> str:
    """The file of one rank's random state."""
    return "rng_state.pth" if world_size == 1 else f"rng_state_{rank}.pth"


def step_of(path: Path) -> int | None:
    """The step in a checkpoint's name; None for any other name."""
    match = _CHECKPOINT.fullmatch(path.name)
    return int(match[1]) if match else None


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The directories that are named like checkpoints, by ascending step; complete or not.

    Raises:
        CheckpointError: If the run directory cannot be read. One that does not exist has none.
    """
    found = [(step, path) for path in _directories(run_dir) if (step := step_of(path)) is not None]
    return [path for _, path in sorted(found)]


def list_leftovers(run_dir: Path) -> list[Leftover]:
    """The directories that saves and deletions left behind when they were killed.

    Raises:
        CheckpointError: If the run directory cannot be read.
    """
    found = [leftover_of(path) for path in sorted(_directories(run_dir))]
    return [leftover for leftover in found if leftover is not None]


def leftover_of(path: Path) -> Leftover | None:
    """What the name of a directory says about it; None if it is not a leftover's."""
    match = _LEFTOVER.fullmatch(path.name)
    return Leftover(path=path, step=int(match[1]), kind=match[2]) if match else None


def _directories(run_dir: Path) -> list[Path]:
    try:
        return [path for path in run_dir.iterdir() if path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(f"{run_dir} cannot be searched for checkpoints: {error}") from error
