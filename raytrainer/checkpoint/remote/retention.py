"""Which checkpoints of a bucket are deleted when there are more than ``save_total_limit``: by the rule of the disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from raytrainer.checkpoint.names import STATE_NAME
from raytrainer.checkpoint.remote.contents import (
    checkpoint_names,
    contents_of,
    discard,
    read_manifest_of,
    run_of,
)
from raytrainer.checkpoint.retention import surplus
from raytrainer.errors import CheckpointError
from raytrainer.storage.locations import without_options
from raytrainer.storage.store import ObjectStore


def prune_bucket(
    store: ObjectStore,
    *,
    limit: int | None,
    keep: Iterable[str],
    keep_newest: bool = True,
    owners: Collection[str] | None = None,
) -> list[str]:
    """Delete the oldest checkpoints beyond a limit, as ``retention.prune`` does.

    Args:
        store: Of the run's URI.
        limit: How many stay; None or 0 for all.
        keep: The URIs of those that stay in any case; others do not matter.
        keep_newest: As in ``prune``.
        owners: As there.

    Returns:
        The names of what was deleted, oldest first.
    """
    if limit is None or limit <= 0:
        return []
    names = checkpoint_names(store)
    found = {name: contents_of(store, name) for name in names}
    names = [name for name in names if not found[name].is_partial]  # the sweep of the next start takes those
    if owners is not None:
        names = [name for name in names if run_of(store, name, found[name]) in owners]
    if len(names) <= limit:
        return []
    ages = {name: _saved_at(store, name) if found[name].is_ours else None for name in names}
    known = [age for age in ages.values() if age is not None]
    has_all = len(known) == len(names)
    ordered = sorted(names, key=lambda name: ages[name] or 0.0) if has_all else names
    wanted = {without_options(uri) for uri in keep}
    doomed = surplus(
        ordered,
        limit=limit,
        kept=[name for name in ordered if without_options(store.location(name)) in wanted],
        committed=[name for name in ordered if found[name].is_ours or STATE_NAME in found[name].files],
        keep_newest=keep_newest,
    )
    for name in doomed:
        discard(store, name)
    return doomed


def _saved_at(store: ObjectStore, name: str) -> float | None:
    try:
        return read_manifest_of(store, name).saved_at
    except CheckpointError:
        return None
