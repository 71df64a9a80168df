"""What a run asks of its output directory, whether that is a directory or a bucket.

The truth about checkpoints is in the directory, or in the bucket. ``directory`` is where this process writes files and
reads those of a checkpoint that was copied to it: the run's directory itself, or this process's stage.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from raytrainer.checkpoint.background.deletions import Deletions
from raytrainer.checkpoint.background.destination import Destination
from raytrainer.checkpoint.background.to_directory import ToDirectory
from raytrainer.checkpoint.commit import CheckpointFacts, Committed, WritePart, commit_checkpoint
from raytrainer.checkpoint.durable_writes import discard
from raytrainer.checkpoint.locate import forget_copies
from raytrainer.checkpoint.names import checkpoint_name
from raytrainer.checkpoint.replaced import run_of
from raytrainer.checkpoint.retention import prune
from raytrainer.checkpoint.save_phases import Laps
from raytrainer.checkpoint.scan import (
    checkpoints_of_others,
    newest_checkpoint,
    requested_checkpoint,
    sweep_leftovers,
)
from raytrainer.checkpoint.shared_directory import check_shared
from raytrainer.runtimes.base import Runtime
from raytrainer.storage.locations import is_uri

if TYPE_CHECKING:
    from raytrainer.checkpoint.background.writer import BackgroundWriter


class RunStorage(Protocol):
    """The output directory of one run, as this process sees it."""

    location: str
    """As the user gave it."""

    @property
    def directory(self) -> Path:
        """Where this process writes."""
        ...

    def checkpoint(self, step: int) -> str:
        """Where the checkpoint of a step is, or would be."""
        ...

    def has_checkpoint(self, step: int, owners: Collection[str]) -> bool:
        """Whether there is a checkpoint of a step that one of some runs saved."""
        ...

    def of_others(self, owners: Collection[str]) -> list[str]:
        """Rank 0: the names of the checkpoints that none of some runs saved, the oldest first."""
        ...

    def below(self, name: str) -> str:
        """Where others find what this process wrote under a name in ``directory``."""
        ...

    def commit(
        self,
        step: int,
        *,
        runtime: Runtime,
        write_parts: Sequence[WritePart],
        facts: CheckpointFacts,
        keep_files: bool = False,
    ) -> Committed:
        """All ranks: write a checkpoint and commit it.

        Args:
            step: The optimizer step that is done.
            runtime: Where this rank runs.
            write_parts: As in ``commit_checkpoint``.
            facts: What the manifest says about the run.
            keep_files: This rank needs its files after the commit.

        Raises:
            CheckpointError: On all ranks, if storage failed on one of them.
        """
        ...

    def destination(self, step: int, *, runtime: Runtime, keep_files: bool = False) -> Destination:
        """All ranks: where a save goes that is written beside training; see ``commit``."""
        ...

    def why_not_beside(self, writer: BackgroundWriter) -> str | None:
        """This rank: why the process beside it cannot write here; None if it can.

        Args:
            writer: Of this rank; it has no order.
        """
        ...

    def prune(
        self,
        *,
        limit: int | None,
        keep: Iterable[str],
        owners: Collection[str],
        keep_newest: bool = True,
        beside: Deletions | None = None,
    ) -> None:
        """Rank 0: delete the oldest checkpoints of some runs beyond a limit; see ``retention.prune``.

        Args:
            limit: How many stay.
            keep: Those that stay in any case.
            owners: The runs.
            keep_newest: As there.
            beside: Where there is a directory, files are deleted by it, beside training.
        """
        ...

    def sweep(self) -> None:
        """Rank 0, before an attempt starts: delete what killed saves and deletions left behind."""
        ...

    def newest(self, *, run_id: str | None = None, report: Callable[[str], None]) -> str | None:
        """Rank 0: find the newest intact checkpoint; see ``newest_checkpoint``."""
        ...

    def requested(
        self, requested: str | bool | None, *, report: Callable[[str], None], has_weights: bool
    ) -> str | None:
        """Rank 0: the checkpoint that ``train(resume_from_checkpoint=...)`` asks for; see ``requested_checkpoint``."""
        ...

    def check_from_all(self, runtime: Runtime) -> None:
        """All ranks, before an attempt starts: check that each machine can use the storage.

        Raises:
            ConfigurationError: On the ranks whose machine cannot; of a directory that is not shared, on all ranks.
            CheckpointError: On the others.
        """
        ...

    def bring(self, name: str) -> None:
        """This rank: get a file that an earlier process wrote beside checkpoints, to go on in it."""
        ...

    def share(self) -> None:
        """This rank: bring what it wrote beside checkpoints (logs, reports) to where others see it."""
        ...

    def release(self) -> None:
        """This rank: checkpoints that were copied to its machine are not needed any more."""
        ...


class DiskStorage:
    """A directory that all ranks share."""

    def __init__(self, directory: str) -> None:
        self.location = directory

    @property
    def directory(self) -> Path:
        """The directory."""
        return Path(self.location)

    def checkpoint(self, step: int) -> str:
        """Where the checkpoint of a step is, or would be."""
        return str(self.directory / checkpoint_name(step))

    def has_checkpoint(self, step: int, owners: Collection[str]) -> bool:
        """Whether there is a directory of this step that one of some runs saved."""
        path = self.directory / checkpoint_name(step)
        return path.is_dir() and run_of(path) in owners

    def of_others(self, owners: Collection[str]) -> list[str]:
        """Rank 0: see ``checkpoints_of_others``."""
        return checkpoints_of_others(self.directory, owners)

    def below(self, name: str) -> str:
        """A path in the directory."""
        return str(self.directory / name)

    def commit(
        self,
        step: int,
        *,
        runtime: Runtime,
        write_parts: Sequence[WritePart],
        facts: CheckpointFacts,
        keep_files: bool = False,
    ) -> Committed:
        """All ranks: see ``commit_checkpoint``."""
        del keep_files
        laps = Laps()
        path = commit_checkpoint(
            self.directory, step, runtime=runtime, write_parts=write_parts, facts=facts, laps=laps
        )
        num_bytes = 0
        if runtime.rank == 0:
            num_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return Committed(location=str(path), num_bytes=num_bytes, phases=laps.phases)

    def destination(self, step: int, *, runtime: Runtime, keep_files: bool = False) -> ToDirectory:
        """All ranks: the directory of a checkpoint."""
        del keep_files
        return ToDirectory(self.directory, step, runtime)

    def why_not_beside(self, writer: BackgroundWriter) -> str | None:
        """It is on the same machine."""
        del writer
        return None

    def prune(
        self,
        *,
        limit: int | None,
        keep: Iterable[str],
        owners: Collection[str],
        keep_newest: bool = True,
        beside: Deletions | None = None,
    ) -> None:
        """Rank 0: see ``retention.prune``."""
        prune(
            self.directory,
            limit=limit,
            keep=keep,
            owners=owners,
            keep_newest=keep_newest,
            discard=discard if beside is None else beside.discard,
        )

    def sweep(self) -> None:
        """Rank 0: see ``sweep_leftovers``."""
        sweep_leftovers(self.directory)

    def newest(self, *, run_id: str | None = None, report: Callable[[str], None]) -> str | None:
        """Rank 0: see ``newest_checkpoint``."""
        found = newest_checkpoint(self.directory, run_id=run_id, report=report)
        return None if found is None else str(found)

    def requested(
        self, requested: str | bool | None, *, report: Callable[[str], None], has_weights: bool
    ) -> str | None:
        """Rank 0: see ``requested_checkpoint``; a URI names a checkpoint in a bucket."""
        if is_uri(str(requested)):
            from raytrainer.checkpoint.remote.scan import fetch_resumable

            fetch_resumable(str(requested), has_weights=has_weights)
            return str(requested)
        found = requested_checkpoint(self.directory, requested, report=report, has_weights=has_weights)
        return None if found is None else str(found)

    def check_from_all(self, runtime: Runtime) -> None:
        """All ranks: see ``check_shared``."""
        check_shared(self.directory, runtime)

    def bring(self, name: str) -> None:
        """It is there."""

    def share(self) -> None:
        """Others see this directory already."""

    def release(self) -> None:
        """This rank: delete what it fetched, if it resumed from a bucket."""
        forget_copies()


def storage_of(output_dir: str | os.PathLike[str] | None) -> RunStorage:
    """The storage of a run, by its ``output_dir``."""
    assert output_dir is not None
    location = os.fspath(output_dir)
    return _bucket(location, os.getpid()) if is_uri(location) else DiskStorage(location)


@functools.cache
def _bucket(uri: str, pid: int) -> RunStorage:
    """One for each process, because a forked one must not use the connections of the first."""
    del pid
    from raytrainer.checkpoint.remote.bucket import BucketStorage

    return BucketStorage(uri)
