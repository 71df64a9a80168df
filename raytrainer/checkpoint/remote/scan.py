"""Which checkpoint of a bucket a run resumes from, and what is deleted before it looks.

The rules are those of ``checkpoint.scan``. A checkpoint that lacks a file, or has one of another size, is skipped
without a download; the others are downloaded, from the newest down, until one has the hashes of its manifest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from raytrainer.checkpoint.names import (
    INCOMPLETE_NAME,
    LAST_CHECKPOINT_NAME,
    MANIFEST_NAME,
    STATE_NAME,
    checkpoint_name,
    leftover_of,
    step_of,
)
from raytrainer.checkpoint.ownership import Found, of_newest_run, report_of_others
from raytrainer.checkpoint.pickles import check_pickles
from raytrainer.checkpoint.remote.contents import (
    check_sizes,
    checkpoint_names,
    contents_of,
    is_complete,
    read_manifest_of,
    remove,
    run_of,
    unmark,
)
from raytrainer.checkpoint.remote.fetch import (
    check_is_there,
    fetch,
    fetching_explained,
    nearby,
    told_by_uri,
)
from raytrainer.checkpoint.remote.steps import settle_aside
from raytrainer.checkpoint.scan import AUTO, check_may_begin, check_resumable
from raytrainer.checkpoint.verify import check_complete, verify_checkpoint
from raytrainer.errors import CheckpointError
from raytrainer.storage.locations import is_uri, split
from raytrainer.storage.store import ObjectStore

logger = logging.getLogger(__name__)


def newest_in_bucket(
    store: ObjectStore,
    *,
    run_id: str | None = None,
    report: Callable[[str], None],
    has_weights: bool = True,
    download: bool = True,
) -> str | None:
    """Find the newest intact checkpoint of a run's bucket.

    Args:
        store: Of the run's URI.
        run_id: Only take what this run committed.
        report: Called with one sentence for every checkpoint that is skipped because it is damaged, and for one that
            is used although nothing proves that it is intact.
        has_weights: Whether one without a model's weights is incomplete.
        download: Fetch it and check its hashes. Otherwise names and sizes decide.

    Returns:
        Its URI. ``fetch`` has it on this machine, if it was downloaded.
    """
    with fetching_explained(store.location()):
        if run_id is not None:
            return _newest_of(store, run_id, report, download=download)
        found, damaged = _look_at(store, _with_fetched(store))
        for one in (candidates := of_newest_run(found)):
            while damaged and damaged[-1][0] > one.step:
                report(damaged.pop()[1])
            try:
                text = _try(store, one.name, has_weights=has_weights, download=download)
            except CheckpointError as error:
                report(f"{one.name} is skipped: {error}")
                continue
            if text:
                report(text)
            report_of_others(found, candidates, one, report)
            return store.location(one.name)
        for _, text in reversed(damaged):
            report(text)
    return None


def _newest_of(
    store: ObjectStore, run_id: str, report: Callable[[str], None], *, download: bool
) -> str | None:
    for name in reversed(checkpoint_names(store)):
        try:
            contents = contents_of(store, name)
            if not contents.files:  # an empty folder, as some stores keep them
                continue
            check_is_there(store, name, contents)
            if not contents.is_ours:
                raise CheckpointError(f"it has no {MANIFEST_NAME}, so this run did not commit it.")
            if read_manifest_of(store, name).run_id != run_id:
                continue
            _try(store, name, has_weights=True, download=download)
        except CheckpointError as error:
            report(f"{name} is skipped: {error}")
            continue
        return store.location(name)
    return None


def _look_at(store: ObjectStore, names: Sequence[str]) -> tuple[list[Found], list[tuple[int, str]]]:
    """What is known about checkpoints without their files; and those of which nothing is, by ascending step."""
    found: list[Found] = []
    damaged: list[tuple[int, str]] = []
    for name in names:
        contents = contents_of(store, name)
        step = step_of(Path(name))
        try:
            if not contents.files:  # an empty folder, as some stores keep them
                continue
            check_is_there(store, name, contents)
            if contents.is_ours:
                found.append(Found.of(name, read_manifest_of(store, name)))
            else:
                found.append(Found(name=name, step=_state_step(store, name) if step is None else step))
        except CheckpointError as error:
            damaged.append((step or 0, f"{name} is skipped: {error}"))
    return found, damaged


def checkpoints_of_others(store: ObjectStore, owners: Collection[str]) -> list[str]:
    """The names of the checkpoints in a bucket that were not saved by some runs, the oldest first."""
    found = {name: contents_of(store, name) for name in checkpoint_names(store)}
    return [
        name
        for name, contents in found.items()
        if is_complete(contents) and run_of(store, name, contents) not in owners
    ]


def _try(store: ObjectStore, name: str, *, has_weights: bool, download: bool) -> str:
    """Check a checkpoint.

    Returns:
        What is to be said about it, if it is intact; "" for nothing.

    Raises:
        CheckpointError: If it is damaged.
    """
    contents = contents_of(store, name)
    location = store.location(name)
    if contents.is_ours:
        manifest = read_manifest_of(store, name)
        check_sizes(store, name, manifest, contents)
        if download:
            path = fetch(location)
            with told_by_uri(path, location):
                verify_checkpoint(path)
                check_pickles(path)
        return ""
    if download:
        path = fetch(location)
        with told_by_uri(path, location):
            check_complete(path, needs_optimizer=True, has_weights=has_weights)
    return (
        f"{name} has no {MANIFEST_NAME}, as raytrainer writes it; its files look complete, but their content is "
        "unverified."
    )


def _with_fetched(store: ObjectStore) -> list[str]:
    """The checkpoints, and ``last-checkpoint`` where its step puts it; the oldest first."""
    names = checkpoint_names(store)
    if not store.exists(f"{LAST_CHECKPOINT_NAME}/{STATE_NAME}"):
        return names
    step = _state_step(store, LAST_CHECKPOINT_NAME)
    older = [name for name in names if (step_of(Path(name)) or 0) < step]
    return [*older, LAST_CHECKPOINT_NAME, *names[len(older) :]]


def _state_step(store: ObjectStore, name: str) -> int:
    """The step in a checkpoint's state; -1 if it is damaged, so that it is tried last, and skipped with a reason."""
    try:
        return int(json.loads(store.get_text(f"{name}/{STATE_NAME}"))["global_step"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return -1


def check_resumable_in_bucket(uri: str) -> None:
    """Check, before anything starts and without a download, that a run can resume from a checkpoint.

    Raises:
        CheckpointError: If it is not there, or files are missing or have other sizes.
    """
    parent, name = split(uri)
    store = ObjectStore(parent)
    with fetching_explained(uri):
        contents = contents_of(store, name)
        check_is_there(store, name, contents)
        if contents.is_ours:
            manifest = read_manifest_of(store, name)
            if (
                manifest.files.keys() <= contents.files.keys()
            ):  # otherwise the weights may have been converted
                check_sizes(store, name, manifest, contents)
        elif STATE_NAME not in contents.files:
            raise CheckpointError(
                f"resume_from_checkpoint={uri!r} is not a checkpoint: it has neither {MANIFEST_NAME} nor "
                f"{STATE_NAME}. {nearby(ObjectStore(uri) if checkpoint_names(ObjectStore(uri)) else store, name)}"
            )


def requested_in_bucket(
    store: ObjectStore,
    requested: str | bool | None,
    *,
    report: Callable[[str], None],
    has_weights: bool = True,
    download: bool = True,
) -> str | None:
    """Find the checkpoint that ``train(resume_from_checkpoint=...)`` asks for, as ``requested_checkpoint`` does.

    Args:
        store: Of the run's URI.
        requested: None or False for none, True for the newest, "auto" for the newest if there is one, a URI, a path
            of this machine, or ``last-checkpoint`` in the bucket.
        report: As in ``newest_in_bucket``.
        has_weights: As there.
        download: As there; what was named is not downloaded.

    Returns:
        Its location; None for a run from the beginning.

    Raises:
        CheckpointError: If there is nothing to resume from, although it was asked for or checkpoints are there.
    """
    if requested is None or requested is False:
        return None
    if requested is True or requested == AUTO:
        newest = newest_in_bucket(store, report=report, has_weights=has_weights, download=download)
        if newest is None:
            with fetching_explained(store.location()):
                names = [name for name in _with_fetched(store) if contents_of(store, name).files]
                known, _ = _look_at(store, names)
            check_may_begin(store.location(), requested, names, known=known)
        return newest
    if requested == LAST_CHECKPOINT_NAME and not Path(requested).exists():
        requested = store.location(requested)
    if is_uri(requested):
        check_resumable_in_bucket(requested)
    else:
        check_resumable(Path(requested), has_weights=has_weights)
    return requested


def fetch_resumable(uri: str, *, has_weights: bool = True) -> Path:
    """Download the checkpoint that a user named, and check it.

    Args:
        uri: The checkpoint.
        has_weights: Whether one without a model's weights is incomplete.

    Raises:
        CheckpointError: If a run cannot resume from it.
    """
    check_resumable_in_bucket(uri)
    path = fetch(uri)
    with told_by_uri(path, uri):
        check_resumable(path, has_weights=has_weights)
    return path


def sweep_bucket(store: ObjectStore) -> None:
    """Rank 0, before an attempt starts: delete what killed saves and deletions left behind.

    A checkpoint that was moved aside for a new one of its step, which then never came, gets its place back.

    Raises:
        CheckpointError: If the bucket cannot be read or changed.
    """
    try:
        for name in store.folders():
            leftover = leftover_of(Path(name))
            if leftover is None:
                continue
            final = checkpoint_name(leftover.step)
            if leftover.kind == "replaced" and settle_aside(store, name, final):
                logger.warning(
                    "%s was restored, because the save that should have replaced it was killed.",
                    store.location(final),
                )
        for name in checkpoint_names(store):
            contents = contents_of(store, name)
            if contents.is_partial:
                remove(store, name)
            elif INCOMPLETE_NAME in contents.files:
                unmark(store, name)
    except OSError as error:
        raise CheckpointError(
            f"What interrupted saves left in {store.location()} cannot be deleted: {error}"
        ) from error
