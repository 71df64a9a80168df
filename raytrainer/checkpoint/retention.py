"""Which checkpoints are deleted when there are more than ``save_total_limit``.

The rule is that of transformers: the oldest go first, the newest and those to keep (the best) stay even if that is one
more than the limit. "Oldest" is by when they were saved and not by step: a run that was resumed from an early step
must not delete what it has just saved because an earlier run got further. What is deleted loses its name first.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from pathlib import Path

from raytrainer.checkpoint.durable_writes import discard
from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.names import MANIFEST_NAME, STATE_NAME, list_checkpoints, step_of
from raytrainer.errors import CheckpointError


def prune(
    run_dir: Path, *, limit: int | None, keep: Iterable[Path | str], keep_newest: bool = True
) -> list[Path]:
    """Delete the oldest checkpoints beyond a limit.

    Args:
        run_dir: Where the checkpoints are.
        limit: How many stay; None or 0 for all.
        keep: Those that stay in any case; paths elsewhere do not matter.
        keep_newest: Keep the newest committed one too. False has an effect only if one of ``keep`` is here: the last
            checkpoint of a run directory is never deleted.

    Returns:
        What was deleted, oldest first.
    """
    if limit is None or limit <= 0:
        return []
    checkpoints = by_age(run_dir)
    wanted = {os.path.realpath(path) for path in keep}
    protected = {path for path in checkpoints if os.path.realpath(path) in wanted}
    if keep_newest or not protected:
        protected |= set([path for path in checkpoints if _is_committed(path)][-1:])
    doomed = [path for path in checkpoints if path not in protected]
    surplus = max(0, len(checkpoints) - max(limit, len(protected)))
    for path in doomed[:surplus]:
        step = step_of(path)
        assert step is not None
        discard(path, step)
    return doomed[:surplus]


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
        return datetime.datetime.fromisoformat(read_manifest(path).created_at).timestamp()
    except (CheckpointError, ValueError):
        return path.stat().st_mtime


def _is_committed(path: Path) -> bool:
    return (path / MANIFEST_NAME).is_file() or (path / STATE_NAME).is_file()
