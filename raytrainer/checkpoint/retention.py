"""Which checkpoints are deleted when there are more than ``save_total_limit``.

The rule is that of transformers: the oldest go first, the newest and those to keep (the best) stay even if that is one
more than the limit. "Oldest" is by when they were saved and not by step: a run that was resumed from an early step
must not delete what it has just saved because an earlier run got further. Only a run's own checkpoints count, and those
of the runs that it goes on with (``ownership``). What is deleted loses its name first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from raytrainer.checkpoint.durable_writes import discard
from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.names import MANIFEST_NAME, STATE_NAME, list_checkpoints, step_of
from raytrainer.checkpoint.replaced import run_of
from raytrainer.errors import CheckpointError

T = TypeVar("T")


def prune(
    run_dir: Path,
    *,
    limit: int | None,
    keep: Iterable[Path | str],
    keep_newest: bool = True,
    owners: Collection[str] | None = None,
    discard: Callable[[Path, int], None] = discard,
) -> list[Path]:
    """Delete the oldest checkpoints beyond a limit.

    Args:
        run_dir: Where the checkpoints are.
        limit: How many stay; None or 0 for all.
        keep: Those that stay in any case; paths elsewhere do not matter.
        keep_newest: Keep the newest committed one too. False has an effect only if one of ``keep`` is here: the last
            checkpoint of a run directory is never deleted.
        owners: The runs whose checkpoints count; None for all.
        discard: Deletes a checkpoint, of a step; its name is gone when that returns.

    Returns:
        What was deleted, oldest first.
    """
    if limit is None or limit <= 0:
        return []
    checkpoints = [path for path in by_age(run_dir) if owners is None or run_of(path) in owners]
    wanted = {os.path.realpath(path) for path in keep}
    doomed = surplus(
        checkpoints,
        limit=limit,
        kept=[path for path in checkpoints if os.path.realpath(path) in wanted],
        committed=[path for path in checkpoints if _is_committed(path)],
        keep_newest=keep_newest,
    )
    for path in doomed:
        step = step_of(path)
        assert step is not None
        discard(path, step)
    return doomed


def surplus(
    by_age: Sequence[T], *, limit: int, kept: Iterable[T], committed: Sequence[T], keep_newest: bool
) -> list[T]:
    """Choose what is deleted, the oldest first.

    Args:
        by_age: All checkpoints, the oldest first.
        limit: How many stay, at least one.
        kept: Those of them that stay in any case.
        committed: Those of them that are complete, the oldest first.
        keep_newest: As in ``prune``.
    """
    protected = set(kept)
    if keep_newest or not protected:
        protected |= set(committed[-1:])
    doomed = [one for one in by_age if one not in protected]
    return doomed[: max(0, len(by_age) - max(limit, len(protected)))]


def by_age(run_dir: Path) -> list[Path]:
    """The checkpoints of a run directory, the oldest first.

    By the times in their manifests, or of the directories where there is none. Some file systems invent those: if
    all are within a second, the step decides.
    """
    checkpoints = list_checkpoints(run_dir)
    times = {path: _saved_at(path) for path in checkpoints}
    has_foreign = any(not (path / MANIFEST_NAME).is_file() for path in checkpoints)
    if has_foreign and max(times.values()) - min(times.values()) < 1.0:
        return checkpoints
    return sorted(checkpoints, key=lambda path: times[path])  # stable: steps decide between equal times


def _saved_at(path: Path) -> float:
    try:
        return read_manifest(path).saved_at
    except CheckpointError:
        return path.stat().st_mtime


def _is_committed(path: Path) -> bool:
    return (path / MANIFEST_NAME).is_file() or (path / STATE_NAME).is_file()
