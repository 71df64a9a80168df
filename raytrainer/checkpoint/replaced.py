"""What becomes of a checkpoint whose name a newer one took: one of the same run is deleted, any other is kept."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from raytrainer.checkpoint.durable_writes import discard, sync_directory
from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.names import checkpoint_name, deleting_name
from raytrainer.checkpoint.ownership import UNNAMED, place_of_earlier
from raytrainer.checkpoint.verify import is_ours
from raytrainer.errors import CheckpointError

logger = logging.getLogger(__name__)


def run_of(path: Path) -> str | None:
    """The run that wrote a checkpoint; None if it was ours and its manifest cannot be read."""
    if not is_ours(path):
        return UNNAMED
    try:
        return read_manifest(path).run_id
    except CheckpointError:
        return None


def predecessors(checkpoint: Path, *, of_restart: bool) -> tuple[str, ...]:
    """The runs that a run goes on with which begins from a checkpoint.

    Args:
        checkpoint: Where it is read.
        of_restart: The run itself wrote it, in an earlier attempt.
    """
    if not is_ours(checkpoint):
        return (UNNAMED,)
    manifest = read_manifest(checkpoint)
    return manifest.continues if of_restart else (manifest.run_id, *manifest.continues)


def settle_replaced(aside: Path, step: int, owners: Collection[str]) -> None:
    """Delete a checkpoint that was moved aside if its owners replaced it; otherwise move it to ``earlier-runs``.

    Args:
        aside: The checkpoint, under a name that no checkpoint has.
        step: Its step.
        owners: The run that took its name, and those that this one goes on with.
    """
    if aside.is_symlink() or not _holds_anything(aside):
        discard(aside, step)  # a link alone: what it leads to stays
        return
    run_id = run_of(aside)
    try:
        if run_id in owners:
            # Renamed first: of half a checkpoint nobody knows whose it was.
            discard(aside.rename(aside.with_name(deleting_name(step))), step)
        else:
            _keep(aside, checkpoint_name(step), run_id)
    except OSError as error:  # the next sweep tries again
        logger.warning("%s, which was replaced, could not be moved and takes space: %s", aside, error)


def _keep(aside: Path, name: str, run_id: str | None) -> None:
    run_dir = aside.parent
    kept = run_dir / place_of_earlier(run_id, name, lambda place: (run_dir / place).exists())
    kept.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(kept)
    sync_directory(kept.parent)
    sync_directory(run_dir)
    logger.warning("%s of an earlier run is in %s now; this run saved one of that name.", name, kept)


def _holds_anything(path: Path) -> bool:
    return not path.is_dir() or any(path.iterdir())
