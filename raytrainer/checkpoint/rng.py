"""The random state of a rank: Python, numpy, torch on CPU and on CUDA.

Files and content are those of ``transformers.Trainer``: ``rng_state.pth`` of one process, ``rng_state_{rank}.pth`` of
several. Keys are added, which ``transformers`` leaves alone: ``ahead``, the state before the next micro-batch was
fetched, ``pass``, the state with which the pass over the data began, and in each of them and beside them ``own``, the
states of the user's own generators. Nothing here decides when a state is saved or restored.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

import torch
from transformers.trainer_pt_utils import safe_globals

from raytrainer.checkpoint.listed import listed_in
from raytrainer.checkpoint.names import rng_name
from raytrainer.checkpoint.pickles import cause_of
from raytrainer.errors import CheckpointError
from raytrainer.random_state import Generators, HostRandomState

logger = logging.getLogger(__name__)


def save_rng(
    directory: Path | str,
    *,
    rank: int,
    world_size: int,
    ahead: HostRandomState | None = None,
    began: HostRandomState | None = None,
    own: Generators | None = None,
) -> Path:
    """All ranks: write this rank's random state.

    Args:
        directory: The checkpoint.
        rank: This rank.
        world_size: Number of ranks.
        ahead: The state before the next micro-batch was fetched, if it was.
        began: The state with which the pass over the data began, in the middle of one.
        own: The user's generators.

    Returns:
        The file.
    """
    states = HostRandomState.now(own).states
    if ahead is not None:
        states["ahead"] = ahead.states
    if began is not None:
        states["pass"] = began.states
    if torch.cuda.is_available():
        states["cuda"] = (
            torch.cuda.random.get_rng_state_all() if world_size > 1 else torch.cuda.random.get_rng_state()
        )
    path = Path(directory) / rng_name(rank, world_size)
    torch.save(states, path)
    return path


def load_rng(
    directory: Path | str,
    *,
    rank: int,
    world_size: int,
    fetch_again: Callable[[HostRandomState], None] | None = None,
    own: Generators | None = None,
) -> bool:
    """All ranks: restore this rank's random state.

    Args:
        directory: The checkpoint.
        rank: This rank.
        world_size: Number of ranks.
        fetch_again: Fetches the next micro-batch; called first, with the state from which it was fetched before the
            checkpoint was saved, if it was.
        own: The user's generators.

    Returns:
        False if the checkpoint has none for this rank and number of ranks; then nothing is changed.

    Raises:
        CheckpointError: If the file is damaged.
    """
    path = Path(directory) / rng_name(rank, world_size)
    if not path.is_file() or not listed_in(path.parent)(path.name):
        return False
    with _damage_of(path):
        states = _read(path)
        if fetch_again is not None and "ahead" in states:
            fetch_again(HostRandomState(states["ahead"]))
        HostRandomState(states).restore(own)
    if torch.cuda.is_available():
        _restore_cuda(states.get("cuda"), path)
    return True


def ranks_without(directory: Path | str, world_size: int) -> list[int]:
    """The ranks, of so many, whose random state a checkpoint does not have."""
    path, is_listed = Path(directory), listed_in(Path(directory))
    names = [rng_name(rank, world_size) for rank in range(world_size)]
    return [rank for rank, name in enumerate(names) if not is_listed(name) or not (path / name).is_file()]


def read_pass_start(directory: Path | str, *, rank: int, world_size: int) -> HostRandomState | None:
    """All ranks: the random state with which the pass over the data began that a checkpoint stands in.

    Args:
        directory: The checkpoint.
        rank: This rank.
        world_size: Number of ranks.

    Returns:
        None if the checkpoint does not know it.

    Raises:
        CheckpointError: If the file is damaged.
    """
    path = Path(directory) / rng_name(rank, world_size)
    if not path.is_file() or not listed_in(path.parent)(path.name):
        return None
    with _damage_of(path):
        states = _read(path)
        return HostRandomState(states["pass"]) if "pass" in states else None


def _read(path: Path) -> dict[str, Any]:
    with safe_globals():
        return torch.load(path, map_location="cpu", weights_only=True)


@contextlib.contextmanager
def _damage_of(path: Path) -> Generator[None]:
    """What goes wrong inside is an error about the file."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError(f"{path} cannot be read as a random state: {cause_of(error)}") from error


def _restore_cuda(saved: object, path: Path) -> None:
    """Restore the GPUs' states if the number of GPUs is the same; otherwise log a warning."""
    states = cast("list[torch.Tensor]", saved) if isinstance(saved, list) else []
    if isinstance(saved, torch.Tensor):
        torch.cuda.random.set_rng_state(saved)
    elif len(states) == torch.cuda.device_count():
        torch.cuda.random.set_rng_state_all(states)
    else:
        logger.warning(
            "%s has the random states of %s GPUs and this process sees %d, so randomness on the GPU (dropout) will "
            "differ.",
            path,
            len(states) or "no",
            torch.cuda.device_count(),
        )
