"""The output directory of a run that is a bucket."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raytrainer.checkpoint.background.deletions import Deletions
from raytrainer.checkpoint.commit import CheckpointFacts, Committed, WritePart
from raytrainer.checkpoint.names import checkpoint_name
from raytrainer.checkpoint.rank_agreement import Agreement
from raytrainer.checkpoint.remote.commit import commit_to_bucket
from raytrainer.checkpoint.remote.contents import contents_of, is_complete, run_of
from raytrainer.checkpoint.remote.fetch import release_copies
from raytrainer.checkpoint.remote.retention import prune_bucket
from raytrainer.checkpoint.remote.scan import (
    checkpoints_of_others,
    fetch_resumable,
    newest_in_bucket,
    requested_in_bucket,
    sweep_bucket,
)
from raytrainer.checkpoint.remote.side_files import SideFiles
from raytrainer.checkpoint.remote.to_bucket import ToBucket, why_unseen
from raytrainer.checkpoint.scan import AUTO
from raytrainer.runtimes.base import Runtime
from raytrainer.storage.locations import is_uri
from raytrainer.storage.probe import check_bucket
from raytrainer.storage.retry import DURING_A_RUN, OF_LOGS
from raytrainer.storage.stage import stage_of
from raytrainer.storage.store import ObjectStore

if TYPE_CHECKING:
    from raytrainer.checkpoint.background.writer import BackgroundWriter

_OF_TRACKERS = ("logs/reporters.json", "mlflow.db", "mlruns", "trackio")

logger = logging.getLogger(__name__)


class BucketStorage:
    """Objects below a URI, and this process's stage for them.

    Args:
        uri: The run's ``output_dir``.

    Raises:
        ConfigurationError: If the URI cannot be opened, or this machine has no place for a stage.
    """

    def __init__(self, uri: str) -> None:
        self.location = uri
        self._store = ObjectStore(uri)
        self._side_files = SideFiles(self._store.with_patience(OF_LOGS), self.directory)

    @property
    def directory(self) -> Path:
        """This process's stage."""
        return stage_of(self.location)

    def checkpoint(self, step: int) -> str:
        """Where the checkpoint of a step is, or would be."""
        return self._store.location(checkpoint_name(step))

    def has_checkpoint(self, step: int, owners: Collection[str]) -> bool:
        """Whether the bucket has the complete checkpoint of a step that one of some runs saved."""
        name = checkpoint_name(step)
        contents = contents_of(self._store, name)
        return is_complete(contents) and run_of(self._store, name, contents) in owners

    def of_others(self, owners: Collection[str]) -> list[str]:
        """Rank 0: see ``checkpoints_of_others``."""
        return checkpoints_of_others(self._store, owners)

    def below(self, name: str) -> str:
        """Where others find what this process wrote under a name in its stage."""
        return self._store.location(name)

    def commit(
        self,
        step: int,
        *,
        runtime: Runtime,
        write_parts: Sequence[WritePart],
        facts: CheckpointFacts,
        keep_files: bool = False,
    ) -> Committed:
        """All ranks: see ``commit_to_bucket``. Afterwards no other checkpoint is in the stage."""
        committed = commit_to_bucket(
            self._store,
            self.directory,
            step,
            runtime=runtime,
            write_parts=write_parts,
            facts=facts,
            keep_files=keep_files,
        )
        release_copies(keep=self.directory / checkpoint_name(step) if keep_files else None)
        return committed

    def destination(self, step: int, *, runtime: Runtime, keep_files: bool = False) -> ToBucket:
        """All ranks: the folder of a checkpoint, by way of this rank's stage."""
        return ToBucket(self._store, self.directory, step, runtime=runtime, keep_files=keep_files)

    def why_not_beside(self, writer: BackgroundWriter) -> str | None:
        """This rank: have its process read an object that this one writes."""
        return why_unseen(self._store, writer)

    def prune(
        self,
        *,
        limit: int | None,
        keep: Iterable[str],
        owners: Collection[str],
        keep_newest: bool = True,
        beside: Deletions | None = None,
    ) -> None:
        """Rank 0: see ``prune_bucket``; a store that fails leaves one too many, with a warning."""
        del beside
        try:
            prune_bucket(self._store, limit=limit, keep=keep, owners=owners, keep_newest=keep_newest)
        except OSError as error:
            logger.warning("Old checkpoints in %s could not be looked for: %s", self.location, error)

    def sweep(self) -> None:
        """Rank 0: see ``sweep_bucket``; it also brings back what trackers of earlier attempts go on in."""
        sweep_bucket(self._store)
        self._side_files.bring_all(_OF_TRACKERS)

    def newest(self, *, run_id: str | None = None, report: Callable[[str], None]) -> str | None:
        """Rank 0: see ``newest_in_bucket``."""
        return newest_in_bucket(self._store, run_id=run_id, report=report)

    def requested(
        self, requested: str | bool | None, *, report: Callable[[str], None], has_weights: bool
    ) -> str | None:
        """Rank 0: see ``requested_in_bucket``; it is downloaded and verified."""
        location = requested_in_bucket(self._store, requested, report=report, has_weights=has_weights)
        if location is not None and is_uri(location) and requested is not True and requested != AUTO:
            fetch_resumable(location, has_weights=has_weights)
        return location

    def check_from_all(self, runtime: Runtime) -> None:
        """All ranks: the first on each machine tries the bucket with the credentials that it has there."""
        ranks = Agreement(runtime, f"{self.location} cannot be used")
        ranks.on_all(self._check if runtime.local_rank == 0 else _nothing)

    def _check(self) -> None:
        # A restart may fall into the outage that caused it.
        check_bucket(self.location, patience=DURING_A_RUN)

    def bring(self, name: str) -> None:
        """This rank: get a file of an earlier process into its stage; a store that fails costs a warning."""
        self._side_files.bring_all([name])

    def share(self) -> None:
        """This rank: upload what changed of its logs and reports; a store that fails costs a warning."""
        self._side_files.upload()

    def release(self) -> None:
        """This rank: delete what it fetched."""
        release_copies()


def _nothing() -> None:
    """What the other ranks of a machine do."""
