"""How a checkpoint is committed while training goes on.

The rule is that of ``checkpoint.commit``: all files complete, hashed and on the disk on every rank, then the manifest,
then the rename. What takes long happens in a process beside each rank (``writer``). The ranks themselves see each other
where they synchronize anyway, between two steps: no collective runs beside those of training, which could meet them in
another order on another rank. When all processes have written, rank 0 gathers what they recorded and has its process
commit; when that is done, the save is. A single rank needs no agreement, so there one order does both.

Whoever dies before the rename, there is no new checkpoint, and a process that writes does not outlive its rank.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from raytrainer.checkpoint.background.messages import PublishOrder, WriteOrder
from raytrainer.checkpoint.background.writer import BackgroundWriter
from raytrainer.checkpoint.commit import (
    CheckpointFacts,
    WritePart,
    make_manifest,
    removed_on_error,
    storage_explained,
    write_all_parts,
)
from raytrainer.checkpoint.manifest import FileRecord
from raytrainer.checkpoint.names import checkpoint_name, writing_name
from raytrainer.checkpoint.rank_agreement import Agreement
from raytrainer.checkpoint.run_storage import Committed
from raytrainer.checkpoint.save_phases import Laps
from raytrainer.errors import CheckpointError
from raytrainer.runtimes.base import Runtime
from raytrainer.telemetry.events import Phase


class PendingSave:
    """A save whose state is copied, and whose commit is still to come.

    Args:
        run_dir: Where ``checkpoint-{step}`` will be; on storage that all ranks share.
        step: The optimizer step that is done.
        runtime: Where this rank runs.
        facts: What the manifest says about the run; rank 0's counts.
        writer: Of this rank.
    """

    def __init__(
        self, run_dir: Path, step: int, *, runtime: Runtime, facts: CheckpointFacts, writer: BackgroundWriter
    ) -> None:
        self.step = step
        self._final = run_dir / checkpoint_name(step)
        self._target = run_dir / writing_name(step, runtime.run_id, runtime.attempt)
        self._runtime = runtime
        self._facts = facts
        self._writer = writer
        self._ranks = Agreement(runtime, f"{self._final} was not saved")
        self.is_written = False
        """On all ranks; what is left is the commit."""
        self._began = time.monotonic()
        self._phases: list[Phase] = []

    def stage(self, write_parts: Sequence[WritePart]) -> int:
        """All ranks: copy the state to host memory, and have it written beside training.

        Args:
            write_parts: As in ``commit_checkpoint``.

        Returns:
            On rank 0, how much is written already, because hooks write some files themselves [bytes].

        Raises:
            CheckpointError: As there.
        """
        laps = Laps()
        with removed_on_error(self._target, is_owner=self._runtime.rank == 0):
            with self._writer.staging() as stage:
                names = write_all_parts(
                    self._target, self._final, self._ranks, runtime=self._runtime, write_parts=write_parts
                )
            order = WriteOrder(
                target=self._target,
                files=stage.files,
                names=names,
                publish=self._publish_order([]) if self._runtime.world_size == 1 else None,
            )

            def hand_over() -> int:
                for image in stage.files:
                    _check_is_left(image.path)
                at_once = sum((self._target / name).stat().st_size for name in names)
                self._writer.order(order)
                return at_once

            at_once = sum(self._ranks.on_all(hand_over) or [])
            laps.end("staging")
            self._phases += laps.phases
            return at_once

    def is_busy(self) -> bool:
        """Whether this rank's process is still at work; never blocks."""
        has_order = self._runtime.rank == 0 or not self.is_written
        return has_order and not self._writer.has_ended()

    def go_on(self) -> Committed | None:
        """All ranks: wait for the processes, and do what follows.

        Returns:
            The checkpoint, if it is committed now.

        Raises:
            CheckpointError: On all ranks, if storage failed on one of them, as from ``commit_checkpoint``.
        """
        committed: list[int] = []

        def hear() -> dict[str, FileRecord]:
            with storage_explained(self._final, always=True):
                reply = self._writer.result()
            committed.extend([] if reply.committed_bytes is None else [reply.committed_bytes])
            self._phases += reply.phases
            return reply.records or {}

        with removed_on_error(self._target, is_owner=self._runtime.rank == 0):
            if not self.is_written:
                records = self._ranks.on_all(hear)
                self.is_written = True
                if self._runtime.world_size > 1:
                    self._ranks.on_rank_0(lambda: self._writer.order(self._publish_order(records or [])))
                    return None
            else:
                self._ranks.on_all(lambda: hear() if self._runtime.rank == 0 else {})
        return Committed(location=str(self._final), num_bytes=sum(committed), phases=self._phases)

    def finish(self) -> Committed:
        """All ranks: wait until the checkpoint is committed.

        Raises:
            CheckpointError: As ``go_on``.
        """
        committed = None
        while committed is None:
            committed = self.go_on()
        return committed

    def drop(self) -> None:
        """This rank: forget the save, whose files may still be being written; the checkpoints before are untouched."""
        self._writer.close()
        if self._runtime.rank == 0:
            shutil.rmtree(self._target, ignore_errors=True)

    def seconds(self) -> float:
        """Since the save began [s]."""
        return time.monotonic() - self._began

    def _publish_order(self, records: list[dict[str, FileRecord]]) -> PublishOrder:
        manifest = make_manifest(self.step, self._runtime, self._facts, records)
        return PublishOrder(target=self._target, final=self._final, manifest=manifest)


def _check_is_left(path: Path) -> None:
    """A file that the process is to write, and that nobody touched after it was handed over."""
    if not path.is_file() or path.stat().st_size > 0:
        found = "written again" if path.is_file() else "moved or deleted"
        raise CheckpointError(
            f"{path.name} was {found} by a hook after it had been saved, but with async_save=True its content is "
            "written when the hooks have ended. Do that in a callback with on_save, or set async_save=False."
        )
