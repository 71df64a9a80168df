"""How a checkpoint is committed while training goes on.

The rule is that of ``checkpoint.commit``, in a bucket that of ``remote.commit``: all files complete, hashed and stored
on every rank, then the manifest; in a directory the rename follows. What takes long happens in a process beside each
rank (``writer``). The ranks themselves see each other where they synchronize anyway, between two steps: no collective
runs beside those of training, which could meet them in another order on another rank. When all processes have written,
rank 0 gathers what they recorded; then one turn follows another (``destination``), each when the one before has ended
on all ranks. With the last one the save is done. A single rank needs no agreement, so there one order does all.

Whoever dies before the commit, there is no new checkpoint, and a process that writes does not outlive its rank.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from raytrainer.checkpoint.background.destination import Destination, Turn
from raytrainer.checkpoint.background.messages import FollowOrder, WriteOrder
from raytrainer.checkpoint.background.writer import BackgroundWriter
from raytrainer.checkpoint.commit import CheckpointFacts, Committed, WritePart, make_manifest
from raytrainer.checkpoint.manifest import FileRecord, Manifest
from raytrainer.checkpoint.rank_agreement import Agreement
from raytrainer.checkpoint.save_phases import Laps
from raytrainer.errors import CheckpointError
from raytrainer.runtimes.base import Runtime
from raytrainer.telemetry.events import Phase


class PendingSave:
    """A save whose state is copied, and whose commit is still to come.

    Args:
        destination: Where the checkpoint will be.
        step: The optimizer step that is done.
        runtime: Where this rank runs.
        facts: What the manifest says about the run; rank 0's counts.
        writer: Of this rank.
    """

    def __init__(
        self,
        destination: Destination,
        step: int,
        *,
        runtime: Runtime,
        facts: CheckpointFacts,
        writer: BackgroundWriter,
    ) -> None:
        self.step = step
        self._destination = destination
        self._runtime = runtime
        self._facts = facts
        self._writer = writer
        self._ranks = Agreement(runtime, f"{destination.location} was not saved")
        self._turns = list(destination.turns(self._manifest))
        """That are still to come."""
        self._is_for_all = True
        """What is under way; first all write."""
        self._records: list[dict[str, FileRecord]] = []
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
        target = self._destination.target
        with self._undone_on_error():
            with self._writer.staging() as stage:
                names = self._destination.write_parts(
                    self._ranks, runtime=self._runtime, write_parts=write_parts
                )
            then = [turn.make([]) for turn in self._turns] if self._runtime.world_size == 1 else []
            order = WriteOrder(target=target, files=stage.files, names=names, then=then)
            if then:
                self._turns.clear()

            def hand_over() -> int:
                for image in stage.files:
                    _check_is_left(image.path)
                at_once = sum((target / name).stat().st_size for name in names)
                self._writer.order(order)
                return at_once

            at_once = sum(self._ranks.on_all(hand_over) or [])
            laps.end("staging")
            self._phases += laps.phases
            return at_once

    def is_busy(self) -> bool:
        """Whether this rank's process is still at work; never blocks."""
        return self._has_order() and not self._writer.has_ended()

    def go_on(self) -> Committed | None:
        """All ranks: wait for the processes, and do what follows.

        Returns:
            The checkpoint, if it is committed now.

        Raises:
            CheckpointError: On all ranks, if storage failed on one of them, as from a save in the loop.
        """
        committed: list[int] = []

        def hear() -> dict[str, FileRecord]:
            if not self._has_order():
                return {}
            with self._destination.explained():
                reply = self._writer.result()
            committed.extend([] if reply.committed_bytes is None else [reply.committed_bytes])
            self._phases += reply.phases
            return reply.records or {}

        with self._undone_on_error():
            records = self._ranks.on_all(hear) or []
            if not self.is_written:
                self.is_written, self._records = True, records
            if self._turns:
                self._begin(self._turns.pop(0))
                return None
        self._destination.end()
        return Committed(location=self._destination.location, num_bytes=sum(committed), phases=self._phases)

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
        self._destination.undo(self._runtime, is_over=False)

    def seconds(self) -> float:
        """Since the save began [s]."""
        return time.monotonic() - self._began

    def _begin(self, turn: Turn) -> None:
        self._is_for_all = turn.is_for_all

        def order() -> None:
            if self._has_order():
                self._writer.order(FollowOrder(what=turn.make(self._records)))

        self._ranks.on_all(order)

    def _has_order(self) -> bool:
        """Whether this rank's process has a part in what is under way."""
        return self._is_for_all or self._runtime.rank == 0

    def _manifest(self, records: list[dict[str, FileRecord]]) -> Manifest:
        return make_manifest(self.step, self._runtime, self._facts, records)

    @contextlib.contextmanager
    def _undone_on_error(self) -> Generator[None]:
        """All ranks: leave nothing behind when a save fails or is interrupted; the process must not go on with it."""
        try:
            yield
        except BaseException:
            self._writer.close()
            self._destination.undo(self._runtime, is_over=True)
            raise


def _check_is_left(path: Path) -> None:
    """A file that the process is to write, and that nobody touched after it was handed over."""
    if not path.is_file() or path.stat().st_size > 0:
        found = "written again" if path.is_file() else "moved or deleted"
        raise CheckpointError(
            f"{path.name} was {found} by a hook after it had been saved, but with async_save=True its content is "
            "written when the hooks have ended. Do that in a callback with on_save, or set async_save=False."
        )
