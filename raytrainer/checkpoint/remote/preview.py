"""What a driver can say about a checkpoint in a bucket before any worker starts, without its tensors."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from raytrainer.checkpoint.remote.fetch import fetch_outline, told_by_uri
from raytrainer.checkpoint.remote.scan import check_resumable_in_bucket, requested_in_bucket
from raytrainer.storage.locations import is_uri
from raytrainer.storage.store import ObjectStore


@contextlib.contextmanager
def preview(
    directory: str, requested: str | bool | None, *, report: Callable[[str], None], has_weights: bool
) -> Generator[Path | None]:
    """Find the checkpoint that a run is to resume from, when it or the run's directory is in a bucket.

    Args:
        directory: The run's, a path or a URI.
        requested: As in ``requested_checkpoint``.
        report: As there.
        has_weights: As there.

    Yields:
        A directory with its small files and the headers of its weights, or the checkpoint itself, if it is on a disk;
        None for a run from the beginning.

    Raises:
        CheckpointError: If there is none, or files are missing or have other sizes.
    """
    location: str | None
    if is_uri(directory):
        store = ObjectStore(directory)
        location = requested_in_bucket(
            store, requested, report=report, has_weights=has_weights, download=False
        )
    else:
        location = str(requested)
        check_resumable_in_bucket(location)
    if location is None or not is_uri(location):
        yield None if location is None else Path(location)
        return
    with tempfile.TemporaryDirectory(prefix="raytrainer-") as temporary:
        outline = fetch_outline(location, Path(temporary))
        with told_by_uri(outline, location):
            yield outline
