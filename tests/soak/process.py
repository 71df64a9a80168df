"""The process that writes checkpoints, with the faults of a round in it: each kills its rank, or ails the storage."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raytrainer.checkpoint import commit
from raytrainer.checkpoint.background import process, to_directory, written
from tests.soak.plan import Fault, Round

VARIABLE = "RAYTRAINER_SOAK"
"""JSON: the directory, the round, the rank."""
NAME = "tests.soak.process"
PARTS_BEFORE_DEATH = 2
"""Of a file."""


class Armed:
    """The faults of a rank that happen here, once each.

    Args:
        faults: Of the round.
        directory: Has a file for each that has happened.
        rank: Of the process's parent.
    """

    def __init__(self, faults: tuple[Fault, ...], directory: Path, rank: int) -> None:
        self._faults = faults
        self._directory = directory
        self._rank = rank
        self._path: Path | None = None
        """Of the file that is being written."""
        self._num_parts = 0

    def at(self, kind: str, path: object, do: Callable[[], None]) -> None:
        for fault in self._faults:
            is_here = (fault.kind, fault.rank) == (kind, self._rank)
            if is_here and f"checkpoint-{fault.step}." in str(path):
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(self._directory / f"{fault}.done", os.O_CREAT | os.O_EXCL))
                    do()

    def install(self) -> None:
        image, chunks, publish, write = (
            process.write_image,
            written._chunks,
            to_directory.publish,
            commit.write_synced,
        )

        def write_image(file: Any, memory: Any) -> Any:
            self._path, self._num_parts = file.path, 0
            record = yield from image(file, memory)
            self.at("kill worker when a file is hashed", file.path, kill_rank)
            return record

        def counted(*args: Any) -> Any:
            self._num_parts += 1
            if self._num_parts == PARTS_BEFORE_DEATH:
                self.at("kill worker while a file is written", self._path, kill_rank)
            return chunks(*args)

        def write_synced(path: Path, text: str) -> None:
            self.at("kill worker before the manifest", path, kill_rank)
            self.at("disk full", path, no_space)
            self.at("slow disk", path, lambda: time.sleep(1.0))
            write(path, text)
            self.at("kill worker after the manifest", path, kill_rank)

        def published(target: Path, *args: Any, **kwargs: Any) -> None:
            publish(target, *args, **kwargs)
            self.at("kill worker after the rename", target, kill_rank)

        process.write_image, written._chunks = write_image, counted
        to_directory.publish, commit.write_synced = published, write_synced


def kill_rank() -> None:
    """Kill the rank; this process goes on as far as it gets."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.05)


def no_space() -> None:
    raise OSError(28, os.strerror(28))


if __name__ == "__main__":
    directory, text, rank = json.loads(os.environ[VARIABLE])
    Armed(Round.from_json(text).faults, Path(directory), rank).install()
    process.main()
