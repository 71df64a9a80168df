"""Which checkpoints of a directory are a run's own, and which run is the newest.

Each manifest names the run that wrote it and those that this run goes on with: a run that resumed counts the
checkpoints of the run before as its own, and one that began afresh counts only what it writes. A run deletes and
replaces its own checkpoints only. Resuming follows the newest run, the one that saved last, however few steps it has;
a person who wants to go on with another one names a checkpoint of it.

What transformers wrote names no run; all of it counts as one run, whose predecessors nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from raytrainer.checkpoint.manifest import Manifest
from raytrainer.checkpoint.names import NOT_IN_NAMES, step_of

UNNAMED = ""
"""The run of checkpoints without a manifest."""
EARLIER_RUNS = "earlier-runs"
"""Folder for checkpoints of earlier runs whose names a new run needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A checkpoint of a run directory."""

    name: str
    step: int
    run_id: str = UNNAMED
    continues: tuple[str, ...] = ()
    saved_at: float | None = None
    """[s since the epoch]; None if nothing tells."""

    @classmethod
    def of(cls, name: str, manifest: Manifest) -> Found:
        """By a checkpoint's manifest."""
        return cls(
            name=name,
            step=manifest.step if (step := step_of(Path(name))) is None else step,
            run_id=manifest.run_id,
            continues=manifest.continues,
            saved_at=manifest.saved_at,
        )


def of_newest_run(found: Sequence[Found]) -> list[Found]:
    """The checkpoints of the newest run and of those that it goes on with, the newest first.

    Steps order those of one run. If nothing tells when some of them were saved, steps decide between runs too.
    """
    by_step = sorted(found, key=lambda one: one.step, reverse=True)
    last: dict[str, float] = {}
    for one in found:
        if one.saved_at is None:
            return by_step
        last[one.run_id] = max(one.saved_at, last.get(one.run_id, 0.0))
    # Copies of what transformers wrote are as old as the copy; then steps tell more than times.
    if not last or (UNNAMED in last and max(last.values()) - min(last.values()) < 1.0):
        return by_step
    newest = max(last, key=lambda run_id: last[run_id])
    if newest == UNNAMED:
        wanted: Collection[str] = last.keys()
    else:
        wanted = {newest, *(run_id for one in found if one.run_id == newest for run_id in one.continues)}
    chosen = [one for one in by_step if one.run_id in wanted]
    return sorted(chosen, key=lambda one: last[one.run_id], reverse=True)  # stable: by step within a run


def report_of_others(
    found: Sequence[Found], candidates: Sequence[Found], chosen: Found, report: Callable[[str], None]
) -> None:
    """Say which checkpoints have more steps than the chosen one, and are not taken because another run wrote them."""
    passed = [one for one in found if one.step > chosen.step and one not in candidates]
    if passed:
        names = listing([one.name for one in sorted(passed, key=lambda one: one.step, reverse=True)])
        report(
            f"{chosen.name} is taken, which the newest run saved. {names} {_is(passed)} of another run; to go on "
            "with that one, pass its path as resume_from_checkpoint."
        )


def fresh_start(location: object, names: Sequence[str]) -> str:
    """What a run says that begins where checkpoints of other runs are."""
    return (
        f"{location} has {len(names)} checkpoint{'s' * (len(names) != 1)} of earlier runs: {listing(names)}. This run "
        f"begins at step 0, leaves them there, and does not count them in save_total_limit. Where it saves one of the "
        f"same name, the earlier one is moved to {EARLIER_RUNS}/. To go on with the newest run instead, call "
        "train(resume_from_checkpoint=True)."
    )


def place_of_earlier(run_id: str | None, name: str, is_taken: Callable[[str], bool]) -> str:
    """Where a checkpoint of another run is kept whose name is needed.

    Args:
        run_id: Of the run that wrote it; None if its manifest cannot be read.
        name: Its name.
        is_taken: Whether there is something at a path in the run directory.
    """
    run = NOT_IN_NAMES.sub("_", run_id or "").strip(".") or "unnamed"
    place, number = f"{EARLIER_RUNS}/{run}/{name}", 1
    while is_taken(place):
        number += 1
        place = f"{EARLIER_RUNS}/{run}-{number}/{name}"
    return place


def listing(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _is(them: Sequence[object]) -> str:
    return "is" if len(them) == 1 else "are"
