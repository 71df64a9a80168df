"""How files that a user asks for (a model, metrics, a card) come to ``output_dir`` when that is a bucket.

They are written to a directory of this machine, by code that knows directories only, and uploaded when all of them are
complete.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path

from raytrainer.errors import CheckpointError
from raytrainer.storage.locations import is_uri


@contextlib.contextmanager
def written_to(location: str | os.PathLike[str], *, with_files: Iterable[str] = ()) -> Generator[str]:
    """A directory whose files are at a location when the block has ended.

    Args:
        location: A path, which is the directory itself, or a URI. If several ranks write to a URI, each has a
            directory of its own.
        with_files: Names of files that are brought from the bucket first, if it has them.

    Yields:
        The directory.

    Raises:
        CheckpointError: If the bucket cannot be read or written.
    """
    if not is_uri(location):
        yield os.fspath(location)
        return
    from raytrainer.storage.stage import stage_of
    from raytrainer.storage.store import ObjectStore

    uri = os.fspath(location)
    store = ObjectStore(uri)
    with tempfile.TemporaryDirectory(
        dir=stage_of(uri), prefix=".export-", ignore_cleanup_errors=True
    ) as directory:
        here = Path(directory)
        try:
            for name in with_files:
                if store.exists(name):
                    store.get(name, here / name)
            yield directory
            files = (path for path in here.rglob("*") if path.is_file())
            store.put_all({path.relative_to(here).as_posix(): path for path in files})
        except OSError as error:
            raise CheckpointError(
                f"{uri} could not be written: {error}. Check the network, and that the credentials of this machine are "
                "valid and may read and write there."
            ) from error
