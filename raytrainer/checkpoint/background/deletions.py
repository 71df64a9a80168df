"""Old checkpoints are deleted while training goes on.

A file system takes its time to free a large file: ext4 that tells the disk of freed blocks takes 0.2 s for 1.6 GB, in
which no processor works. The name of a checkpoint goes at once, as it does otherwise; its files go in a thread, which
does nothing but wait for the file system. What a kill leaves of them, the next attempt deletes.
"""

from __future__ import annotations

import threading
from pathlib import Path

from raytrainer.checkpoint.durable_writes import delete, without_name


class Deletions:
    """Those of one run."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def discard(self, path: Path, step: int) -> None:
        """Take its name from a checkpoint, and delete it in a thread.

        Args:
            path: The checkpoint.
            step: Its step.
        """
        doomed = without_name(path, step)
        if doomed is not None:
            thread = threading.Thread(target=delete, args=(doomed,), name="deletes a checkpoint")
            thread.start()
            self._threads.append(thread)

    def wait(self) -> None:
        """Until their space is free."""
        while self._threads:
            self._threads.pop().join()
