"""The files of the ledger of samples: which samples each rank used in each step.

Each attempt of a run, and each run, writes into a directory of its own, whose name says after which step it began. Each
rank appends a line to its file after each step, so that the file of a killed run holds all steps that it took. Lines
of steps that a later attempt took again do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NAME = "sample_ledger"
_ATTEMPT = re.compile(r"(\d+)-from-step-(\d+)")
_RANK = re.compile(r"rank-(\d+)-of-(\d+)\.jsonl")


@dataclass(frozen=True, kw_only=True)
class LedgerLine:
    """What one rank used in one step."""

    step: int
    """Number of the step."""
    epoch: int
    """Index of the epoch."""
    samples: list[Any]
    """Indices in the dataset, in the order of use; of a stream positions in it."""
    fill_ups: list[Any]
    """Those that filled up the last round of the data."""


@dataclass
class StepUse:
    """What all ranks used in one step."""

    world_size: int
    lines: dict[int, LedgerLine] = field(default_factory=dict[int, LedgerLine])
    """Rank -> its line."""

    @property
    def is_whole(self) -> bool:
        """Whether every rank wrote its line."""
        return len(self.lines) == self.world_size


def new_attempt(directory: Path, first_step: int) -> Path:
    """One rank: make the directory of an attempt.

    Args:
        directory: Of the run.
        first_step: Steps that were done when it began.
    """
    numbers = [number for number, _, _ in _attempts(directory)]
    found = directory / NAME / f"{max(numbers, default=0) + 1:04d}-from-step-{first_step}"
    found.mkdir(parents=True)
    return found


def append_line(attempt: Path, line: LedgerLine, *, rank: int, world_size: int) -> None:
    """Append a line; when this returns it survives the death of the process.

    Args:
        attempt: What ``new_attempt`` returned.
        line: The line.
        rank: This rank.
        world_size: Number of ranks.
    """
    # Opened each time: other machines see what was written to a network file system when it is closed.
    with (attempt / f"rank-{rank}-of-{world_size}.jsonl").open("a") as file:
        file.write(json.dumps(asdict(line), default=str) + "\n")


def read_epoch(directory: Path, epoch: int) -> dict[int, StepUse]:
    """The steps of an epoch that count, by number.

    Args:
        directory: Of the run.
        epoch: Index of the epoch.
    """
    found: dict[int, StepUse] = {}
    last_step = float("inf")
    for _, first_step, attempt in sorted(_attempts(directory), reverse=True):
        for path in attempt.iterdir():
            named = _RANK.fullmatch(path.name)
            if named is None:
                continue
            for line in _lines(path):
                if line.epoch == epoch and line.step <= last_step:
                    use = found.setdefault(line.step, StepUse(int(named[2])))
                    use.lines[int(named[1])] = line
        last_step = min(last_step, first_step)
    return found


def _attempts(directory: Path) -> list[tuple[int, int, Path]]:
    """Number, first step and directory of each attempt."""
    root = directory / NAME
    named = [(_ATTEMPT.fullmatch(path.name), path) for path in root.iterdir()] if root.is_dir() else []
    return [(int(found[1]), int(found[2]), path) for found, path in named if found is not None]


def _lines(path: Path) -> Iterator[LedgerLine]:
    for text in path.read_text().splitlines():
        try:
            yield LedgerLine(**json.loads(text))
        except (ValueError, TypeError):
            return  # The process died while it wrote; that step was not finished.
