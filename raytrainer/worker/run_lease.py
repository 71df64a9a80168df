"""Holds the directory of a run while all of its ranks train; rank 0 does it for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path

from raytrainer.checkpoint.lease import held
from raytrainer.loop.notes import tell
from raytrainer.runtimes.base import Runtime
from raytrainer.storage.locations import is_uri


@contextlib.contextmanager
def held_by_run(location: str, runtime: Runtime, *, saves: bool) -> Generator[None]:
    """All ranks: hold a directory, or a bucket, until the end of the block. An error on rank 0 is an error everywhere.

    Args:
        location: Where the run's checkpoints are.
        runtime: Where this rank runs.
        saves: Whether the run writes any. One that does not disturbs no other.

    Raises:
        ConfigurationError: If another run that lives holds it.
    """
    if not saves:
        yield
        return

    def report(text: str) -> None:
        tell(runtime, text)

    with contextlib.ExitStack() as stack:
        refused: Exception | None = None
        if runtime.rank == 0:
            try:
                stack.enter_context(_held(location, runtime.run_id, report))
            except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks wait for an answer
                refused = error
        refused = runtime.broadcast(refused)
        if refused is not None:
            raise refused
        yield


def _held(
    location: str, run_id: str, report: Callable[[str], None]
) -> contextlib.AbstractContextManager[None]:
    if not is_uri(location):
        return held(Path(location), run_id, report=report)
    from raytrainer.checkpoint.remote.lease import held_bucket
    from raytrainer.storage.store import ObjectStore

    return held_bucket(ObjectStore(location), run_id, report=report)
