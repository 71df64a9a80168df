"""Runs one of the two scripts in a separate process with its own Ray, and reads its timestamps."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIDES = {"raytrainer": "with_raytrainer.py", "by hand": "by_hand.py"}
"""The sides of most benchmarks."""
COMMANDS = {
    **{side: [script] for side, script in SIDES.items()},
    "raytrainer sweep": ["sweep.py", "--side", "raytrainer"],
    "transformers sweep": ["sweep.py", "--side", "transformers"],
    "sweep by hand": ["sweep.py", "--side", "by-hand"],
}
TIMEOUT_S = 600
FOREIGN = ("RAY_ADDRESS", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Run:
    """One run of a script.

    Attributes:
        began: Start time of its process [s since the epoch].
        marks: The marks that it wrote, in order.
        failure: What it printed, if it failed.
    """

    began: float
    marks: list[dict[str, Any]]
    failure: str | None = None

    def all(self, name: str) -> list[dict[str, Any]]:
        """The marks of a name."""
        return [mark for mark in self.marks if mark["name"] == name]

    def one(self, name: str) -> dict[str, Any]:
        """The first mark of a name.

        Raises:
            SystemExit: If there is none.
        """
        found = self.all(name)
        if not found:
            because = f"\n{self.failure}" if self.failure else ""
            raise SystemExit(f"The script never marked {name!r}; it marked {self.marks}.{because}")
        return found[0]


def run(side: str, *flags: str, may_fail: bool = False) -> Run:
    """Run a script to its end.

    Args:
        side: Of ``COMMANDS``.
        flags: For the script.
        may_fail: Return what it had marked when it failed.

    Raises:
        SystemExit: If it fails and must not, with what it printed.
    """
    # Short, because the path of a socket has at most 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="rtb-", dir="/tmp"))
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment |= {
        "RAY_TMPDIR": str(directory / "r"),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    (directory / "r").mkdir()
    script, *own_flags = COMMANDS[side]
    command = [sys.executable, str(HERE / script), *own_flags, "--directory", str(directory), *flags]
    try:
        began = time.time()
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment
        )
        failure = None
        if done.returncode:
            failure = f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            if not may_fail:
                raise SystemExit(failure)
        lines = (directory / "marks.jsonl").read_text().splitlines()
        return Run(began, sorted(map(json.loads, lines), key=lambda mark: mark["time"]), failure)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def interleaved(rounds: int) -> Iterator[str]:
    """Run both sides in turn; they alternate in going first."""
    for number in range(rounds):
        yield from SIDES if number % 2 == 0 else reversed(SIDES)


def report(what: str, times: dict[str, Sequence[float]]) -> None:
    """Print all measurements [s], the medians and their ratio; a side may have none."""
    times = {side: values for side, values in times.items() if values}
    medians = {side: statistics.median(values) for side, values in times.items()}
    print(f"\n{what}")
    for side, values in times.items():
        readings = "  ".join(f"{value:.2f}" for value in values)
        print(f"  {side:10}  median {medians[side]:6.2f} s   of {readings}")
    if len(medians) == len(SIDES):
        print(f"  raytrainer / by hand = {medians['raytrainer'] / medians['by hand']:.2f}")
