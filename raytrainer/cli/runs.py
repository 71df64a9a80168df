"""``raytrainer runs``: lists the runs below a directory, the one that was heard of last first."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raytrainer.checkpoint.lease import is_held
from raytrainer.checkpoint.names import step_of
from raytrainer.errors import ConfigurationError
from raytrainer.report.directory import is_run
from raytrainer.report.record import Record, read_record
from raytrainer.telemetry.formatting import cut, display_width, format_duration, format_value, pad

MAX_DEPTH = 6
_WIDEST_NAME = 30


def runs(directory: str, *, as_json: bool) -> int:
    """Print the runs below a directory.

    Args:
        directory: Where to look.
        as_json: Print JSON.

    Returns:
        The exit code: 1 if there is no run.

    Raises:
        ConfigurationError: If it is not a directory.
    """
    root = Path(directory)
    if not root.is_dir():
        raise ConfigurationError(
            f"{directory} is not a directory. Name one that holds runs, each with its own output_dir."
        )
    found = [facts_of(path) for path in find_runs(root)]
    found.sort(key=lambda facts: facts["last_record"] or 0.0, reverse=True)
    if as_json:
        print(json.dumps(found, indent=2))
    elif found:
        print("\n".join(_table(found, root)))
    else:
        print(f"There is no run below {directory}.")
    return 0 if found else 1


def find_runs(root: Path) -> Iterator[Path]:
    """The directories of runs, not deeper than ``MAX_DEPTH``; does not look into checkpoints or hidden folders."""
    for folder, names, _ in os.walk(root):
        path = Path(folder)
        if is_run(path):
            yield path
        depth = len(path.relative_to(root).parts)
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(".") and step_of(Path(name)) is None and depth < MAX_DEPTH
        )


def facts_of(directory: Path) -> dict[str, Any]:
    """What is known of a run, without reading all of its numbers."""
    record = read_record(directory, tail_only=True)
    lives = is_held(directory)
    there = [save.step for save in record.saves if save.is_there]
    return {
        "directory": str(directory),
        "state": "running" if lives and record.state == "unfinished" else _state(record),
        "alive": lives,
        "step": record.step,
        "max_steps": record.max_steps,
        "loss": record.last("loss"),
        "best_metric": None if record.best_metric is None else record.best_metric[1],
        "last_checkpoint": max(there, default=None),
        "restarts": len(record.restarts),
        "began": record.began,
        "last_record": record.heard,
    }


def _state(record: Record) -> str:
    return "killed" if record.state == "unfinished" and record.attempts else record.state


def _table(found: list[dict[str, Any]], root: Path) -> list[str]:
    rows = [("run", "state", "step", "loss", "best", "saved", "last heard")]
    for facts in found:
        of = f"/{facts['max_steps']}" if facts["max_steps"] else ""
        heard = facts["last_record"]
        rows.append(
            (
                cut(_name(Path(facts["directory"]), root), _WIDEST_NAME),
                facts["state"],
                f"{facts['step']}{of}",
                _number(facts["loss"]),
                _number(facts["best_metric"]),
                "-" if facts["last_checkpoint"] is None else str(facts["last_checkpoint"]),
                "-" if heard is None else f"{format_duration(max(0.0, time.time() - heard))} ago",
            )
        )
    widths = [max(display_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _name(directory: Path, root: Path) -> str:
    return directory.resolve().name if directory == root else os.path.relpath(directory, root)


def _number(value: float | None) -> str:
    return "-" if value is None else format_value(value)
