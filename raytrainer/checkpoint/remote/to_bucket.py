"""A save beside training into a bucket: it is written into each rank's stage, and uploaded from there."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from raytrainer.checkpoint.background.destination import MakeManifest, Turn
from raytrainer.checkpoint.background.messages import FollowOrder
from raytrainer.checkpoint.commit import WritePart
from raytrainer.checkpoint.names import checkpoint_name, replaced_name, writing_name
from raytrainer.checkpoint.rank_agreement import Agreement
from raytrainer.checkpoint.remote import orders
from raytrainer.checkpoint.remote.commit import keep, stage_explained, write_shares
from raytrainer.checkpoint.remote.fetch import release_copies
from raytrainer.checkpoint.remote.steps import undo
from raytrainer.runtimes.base import Runtime
from raytrainer.storage.retry import BEFORE_A_RUN
from raytrainer.storage.store import ObjectStore

if TYPE_CHECKING:
    from raytrainer.checkpoint.background.writer import BackgroundWriter


class ToBucket:
    """The folder of one checkpoint, and this rank's directory for its own files.

    Args:
        store: Of the run's URI.
        stage: This process's directory for it.
        step: The optimizer step that is done.
        runtime: Where this rank runs.
        keep_files: Leave this rank's files in the stage, under the name of the checkpoint.
    """

    def __init__(
        self, store: ObjectStore, stage: Path, step: int, *, runtime: Runtime, keep_files: bool
    ) -> None:
        self._store = store
        self._name = checkpoint_name(step)
        self._aside = replaced_name(step)
        self._kept = stage / self._name if keep_files else None
        self.location = store.location(self._name)
        self.target = stage / writing_name(step, runtime.run_id, runtime.attempt)

    def write_parts(
        self, ranks: Agreement, *, runtime: Runtime, write_parts: Sequence[WritePart]
    ) -> list[str]:
        """All ranks: see ``write_shares``."""
        return write_shares(self.target, self.location, ranks, runtime=runtime, write_parts=write_parts)

    def turns(self, manifest: MakeManifest) -> Sequence[Turn]:
        """Rank 0 makes room, all upload, rank 0 publishes."""
        uri, name, aside = self._store.uri, self._name, self._aside

        return [
            Turn(is_for_all=False, make=lambda _: orders.MakeRoom(uri=uri, name=name, aside=aside)),
            Turn(is_for_all=True, make=lambda _: orders.Upload(uri=uri, name=name, target=self.target)),
            Turn(
                is_for_all=False,
                make=lambda records: orders.Publish(
                    uri=uri, name=name, aside=aside, manifest=manifest(records)
                ),
            ),
        ]

    def explained(self) -> AbstractContextManager[None]:
        """Of the stage; what the store says is explained where it is asked."""
        return stage_explained(self.location, self.target, always=True)

    def undo(self, runtime: Runtime, *, is_over: bool) -> None:
        """This rank: delete its files; rank 0: also what is in the bucket, or the next sweep does."""
        shutil.rmtree(self.target, ignore_errors=True)
        if runtime.rank == 0 and (is_over or runtime.world_size == 1):
            undo(self._store, self._name, self._aside)

    def end(self) -> None:
        """This rank: as after a save in the loop, no other checkpoint is in the stage."""
        if self._kept is not None:
            keep(self.target, self._kept)
        shutil.rmtree(self.target, ignore_errors=True)
        release_copies(keep=self._kept)


def why_unseen(store: ObjectStore, writer: BackgroundWriter) -> str | None:
    """This rank: whether its process sees a bucket as this one does, whatever opens it there, with whose credentials.

    Args:
        store: Of the run's URI, as this process has opened it.
        writer: Of this rank; it has no order.

    Returns:
        What it met instead of an object that was written here; None if it could read it.
    """
    name, text = f".seen-{secrets.token_hex(8)}", secrets.token_hex(8)
    try:
        store.put_text(name, text)
        writer.start()
        writer.order(FollowOrder(what=orders.Look(uri=store.uri, name=name, text=text)))
        writer.result()
    except Exception as error:  # noqa: BLE001 - whatever it is, a save in the loop is possible, or says it better
        return f"{type(error).__name__}: {error}"
    finally:
        with contextlib.suppress(OSError):
            store.with_patience(BEFORE_A_RUN).delete(name)
    return None
