"""Holds the directory of a run while all of its ranks train; rank 0 does it for them."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

from raytrainer.checkpoint.lease import held
from raytrainer.loop.notes import tell
from raytrainer.runtimes.base import Runtime


@contextlib.contextmanager
def held_by_run(directory: Path, runtime: Runtime, *, saves: bool) -> Generator[None]:
    """All ranks: hold a directory until the end of the block. An error on rank 0 is an error everywhere.

    Args:
        directory: Where the run's checkpoints are.
        runtime: Where this rank runs.
        saves: Whether the run writes any. One that does not disturbs no other.

    Raises:
        ConfigurationError: If another run that lives holds the directory.
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
                stack.enter_context(held(directory, runtime.run_id, report=report))
            except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks wait for an answer
                refused = error
        refused = runtime.broadcast(refused)
        if refused is not None:
            raise refused
        yield
