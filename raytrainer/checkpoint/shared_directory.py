"""Whether an output directory is the same one on all nodes. Files show it: a path says nothing about what is mounted.

A run on several nodes writes parts of its checkpoints on each of them, and begins with trying that, so that a disk of
one node alone is an error before the first step and not a checkpoint without half of its files.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from raytrainer.errors import ConfigurationError
from raytrainer.runtimes.base import Runtime

PATIENCE_S = 5.0
"""How long a file of another node may take to appear: file servers and their clients cache."""
_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Report:
    """What one rank found."""

    rank: int
    host: str
    problem: str | None
    """Why its node cannot use the directory."""

    def __str__(self) -> str:
        return f"{self.host} (rank {self.rank})"


def check_shared(directory: Path, runtime: Runtime) -> None:
    """All ranks: write a file from each node, and read those of the others. Nothing of it stays.

    Args:
        directory: The run's ``output_dir``.
        runtime: Where this rank runs.

    Raises:
        ConfigurationError: On all ranks, if the nodes do not see the same directory; names them.
    """
    if runtime.world_size == runtime.local_world_size:
        return
    prefix = runtime.broadcast(f".shared-{secrets.token_hex(4)}" if runtime.rank == 0 else "")
    is_first = runtime.local_rank == 0
    own = directory / f"{prefix}-{runtime.rank}"
    try:
        written = runtime.gather(_report(runtime, _write(own) if is_first else None))
        seen = None
        if is_first:
            # Rank 0's file is there, or will not be: a rank that could not write has said so.
            seen = _read(directory / f"{prefix}-0", f"{prefix}-0") if runtime.rank else None
        found = runtime.gather(_report(runtime, seen))
        refused: ConfigurationError | None = None
        if runtime.rank == 0:
            assert written is not None
            assert found is not None
            refused = _judge(directory, written, found)
        refused = runtime.broadcast(refused)
    finally:
        if is_first:
            with contextlib.suppress(OSError):
                own.unlink()
    if refused is not None:
        raise refused


def _report(runtime: Runtime, problem: str | None) -> _Report:
    return _Report(rank=runtime.rank, host=socket.gethostname(), problem=problem)


def _write(path: Path) -> str | None:
    """Write a file that holds its own name; says why that failed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name, encoding="utf-8")
    except OSError as error:
        return error.strerror or str(error)
    return None


def _read(path: Path, expected: str) -> str | None:
    """Read the file that another node wrote; says why that failed."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            if path.read_text(encoding="utf-8") == expected:
                return None
            problem = "the file there is another one"
        except OSError as error:
            problem = error.strerror or str(error)
        if time.monotonic() > deadline_s:
            return problem
        time.sleep(_POLL_S)


def _judge(directory: Path, written: list[_Report], found: list[_Report]) -> ConfigurationError | None:
    """Rank 0: what the reports of all ranks mean."""
    unwritable = [report for report in written if report.problem is not None]
    if unwritable:
        each = "; ".join(f"{report}: {report.problem}" for report in unwritable)
        return ConfigurationError(
            f"output_dir={str(directory)!r} cannot be written to on every node that has workers: {each}. Make it "
            f"writable there. {_WHAT_TO_DO}"
        )
    apart = [report for report in found if report.problem is not None]
    if apart:
        each = ", ".join(str(report) for report in apart)
        return ConfigurationError(
            f"output_dir={str(directory)!r} is not the same directory on all nodes that have workers: what "
            f"{written[0]} writes there is not seen on {each}. {_WHAT_TO_DO}"
        )
    return None


_WHAT_TO_DO = (
    "Every node writes its part of a checkpoint: mount storage that all of them share at the same path (NFS, Lustre, "
    'EFS), or give output_dir the URI of a bucket ("s3://bucket/run").'
)
