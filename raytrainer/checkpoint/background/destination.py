"""Where a save that is written beside training goes, as the rank sees it: what follows the writing, and who does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raytrainer.checkpoint.background.messages import FollowUp
from raytrainer.checkpoint.commit import WritePart
from raytrainer.checkpoint.manifest import FileRecord, Manifest
from raytrainer.checkpoint.rank_agreement import Agreement
from raytrainer.runtimes.base import Runtime

MakeManifest = Callable[[list[dict[str, FileRecord]]], Manifest]
"""The files that each rank wrote -> the manifest. Without any, the process adds those that it wrote."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What is done when all ranks have ended what came before."""

    is_for_all: bool
    """Each rank's process does it for its own files; otherwise rank 0's alone."""
    make: Callable[[list[dict[str, FileRecord]]], FollowUp]
    """From the files that each rank wrote, which rank 0 knows."""


class Destination(Protocol):
    """A place for one checkpoint."""

    location: str
    """Of the checkpoint."""
    target: Path
    """The directory into which this rank's process writes."""

    def write_parts(
        self, ranks: Agreement, *, runtime: Runtime, write_parts: Sequence[WritePart]
    ) -> list[str]:
        """All ranks: make the directory and write all parts; return the names of the files that this rank records."""
        ...

    def turns(self, manifest: MakeManifest) -> Sequence[Turn]:
        """What follows when all ranks have written; the last one commits."""
        ...

    def explained(self) -> AbstractContextManager[None]:
        """Errors of storage say what is to be done."""
        ...

    def undo(self, runtime: Runtime, *, is_over: bool) -> None:
        """This rank, whose process does nothing any more: leave nothing of a save that was not committed.

        Args:
            runtime: Where this rank runs.
            is_over: All ranks know that it failed; otherwise processes of others may still be at work.
        """
        ...

    def end(self) -> None:
        """This rank: the checkpoint is committed."""
        ...
