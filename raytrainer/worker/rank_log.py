"""The log file of a rank: ``logs/rank-N.log`` in the output directory of its trainer, which may be a bucket."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from raytrainer.storage.locations import below, is_uri
from raytrainer.storage.stage import working_directory
from raytrainer.worker.stacks import StackWriter

if TYPE_CHECKING:
    from raytrainer.runtimes.ray_worker import RayRuntime


class RankLog:
    """The log of one rank, which moves when the next trainer has another output directory."""

    def __init__(self) -> None:
        self.file: Path | None = None
        """On this machine; None until there is one."""
        self._output_dir: str | None = None
        self._runtime: RayRuntime | None = None
        self._stacks: StackWriter | None = None

    def begin(self, output_dir: str | None, runtime: RayRuntime) -> None:
        """All ranks: write into the log of an output directory; the one of before is left.

        Args:
            output_dir: A directory or a bucket; None if the trainer has none.
            runtime: Of this rank, whose attempt has started. Rank 0's also records the run there.
        """
        self._output_dir, self._runtime = output_dir, runtime
        if output_dir is not None:
            from raytrainer.telemetry.logfile import attach_rank_log

            if is_uri(output_dir):  # go on in the one that an earlier process wrote
                from raytrainer.checkpoint.run_storage import storage_of

                storage_of(output_dir).bring(_name(runtime.rank))
            directory = working_directory(output_dir)
            self.file = attach_rank_log(directory / "logs", runtime.rank, attempt=runtime.attempt)
            if runtime.rank == 0:
                runtime.record_in(output_dir)
        if self._stacks is not None:
            self._stacks.close()
        self._stacks = StackWriter(self.file)

    @property
    def location(self) -> str | None:
        """Where a person finds it."""
        if self.file is None or self._output_dir is None or self._runtime is None:
            return None
        in_bucket = is_uri(self._output_dir)
        return below(self._output_dir, _name(self._runtime.rank)) if in_bucket else str(self.file)

    def share(self) -> None:
        """If it is in a bucket, upload it, as far as that is possible."""
        if self._output_dir is not None and is_uri(self._output_dir):
            from raytrainer.checkpoint.run_storage import storage_of

            with contextlib.suppress(Exception):
                if self._runtime is not None:
                    self._runtime.share_records()
                storage_of(self._output_dir).share()

    def write_traceback(self, error: BaseException) -> None:
        """Here only: the driver's terminal shows the relevant part, once."""
        if self.file is None:
            return
        text = "".join(traceback.format_exception(error))
        with contextlib.suppress(OSError), self.file.open("a", encoding="utf-8") as file:
            file.write(text)
        self.share()

    def write_stacks(self) -> None:
        """From another thread: where each thread of this process is."""
        if self._stacks is not None:
            with contextlib.suppress(OSError, ValueError):  # The log is full, or was exchanged just now.
                self._stacks.write()
            self.share()


def _name(rank: int) -> str:
    return f"logs/rank-{rank}.log"
