"""Writes files of ``torch.save`` that ``torch.load`` reads with ``weights_only``.

What could not be read back that way is refused when it is written, not when a run resumes. Imports no transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from raytrainer.errors import CheckpointError


def write_state(path: Path, state: object, *, owner: str, allowed: Sequence[Any]) -> None:
    """One rank: write a state.

    Args:
        path: The file.
        state: What ``state_dict()`` returned.
        owner: The class whose state it is, for messages.
        allowed: What may be in it besides what torch allows.

    Raises:
        CheckpointError: If it holds objects that could not be read back safely.
    """
    torch.save(state, path)
    check_readable(path, owner=owner, allowed=allowed)


def check_readable(path: Path, *, owner: str, allowed: Sequence[Any]) -> None:
    """Refuse a state that could not be read back.

    Args:
        path: A file of ``torch.save``; the values of its tensors may be missing.
        owner: The class whose state it is, for messages.
        allowed: What may be in it besides what torch allows.

    Raises:
        CheckpointError: If it holds objects that ``torch.load`` refuses.
    """
    unsafe = refused_objects(path, allowed)
    if unsafe:
        raise CheckpointError(
            f"The state of {owner} holds {', '.join(sorted(unsafe)[:3])}, which torch.load refuses with "
            "weights_only, so no run could resume from it. Keep tensors, numbers, strings, lists and dicts in its "
            "state_dict()."
        )


def refused_objects(path: Path, allowed: Sequence[Any]) -> list[str]:
    """The objects in a file of ``torch.save`` that a load with ``weights_only`` would refuse; nothing is loaded.

    Args:
        path: The file.
        allowed: What may be in it besides what torch allows.

    Raises:
        Exception: Of many kinds, if it is no such file.
    """
    with torch.serialization.safe_globals(list(allowed)):
        return get_unsafe_globals_in_checkpoint(path)
