"""``raytrainer runs``: lists the runs below a directory, the one that was heard of last first."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from raytrainer.checkpoint.names import step_of
from raytrainer.errors import ConfigurationError
from raytrainer.report.directory import cannot_read, is_run, is_run_in_bucket, no_bucket, run_directory
from raytrainer.report.life import state_of
from raytrainer.report.record import read_record
from raytrainer.storage.locations import is_uri, join, split, without_options
from raytrainer.storage.retry import BEFORE_A_RUN
from raytrainer.telemetry.bucket_records import FOLDER
from raytrainer.telemetry.formatting import format_ago, format_value
from raytrainer.telemetry.paint import UNICODE, Paint, drawn, glyphs_for, is_terminal, wants_style

MAX_DEPTH = 6
MAX_BUCKET_DEPTH = 2
"""Each folder of a bucket is a request."""
_UNLIMITED = 10_000
_STYLES = {
    "running": "cyan",
    "restarting": "bold cyan",
    "finished": "green",
    "killed": "yellow",
    "failed": "bold yellow",
}


def runs(directory: str, *, as_json: bool) -> int:
    """Print the runs below a directory.

    Args:
        directory: Where to look: a directory or a URI.
        as_json: Print JSON.

    Returns:
        The exit code: 1 if there is no run.

    Raises:
        ConfigurationError: If it is not a directory, or a bucket that cannot be read.
    """
    root = Path(directory)
    if is_uri(directory):
        found = [facts_of(location) for location in find_in_bucket(directory)]
    elif root.is_dir():
        found = [facts_of(str(path)) for path in find_runs(root)]
    else:
        raise ConfigurationError(
            f"{directory} is not a directory. Name one that holds runs, each with its own output_dir."
        )
    found.sort(key=lambda facts: facts["last_record"] or 0.0, reverse=True)
    if as_json:
        print(json.dumps(found, indent=2))
    elif found:
        print(_table(found, directory))
    else:
        depth = MAX_BUCKET_DEPTH if is_uri(directory) else MAX_DEPTH
        print(f"There is no run in {directory}, nor in folders up to {depth} levels below.")
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


def find_in_bucket(uri: str, depth: int = MAX_BUCKET_DEPTH) -> Iterator[str]:
    """The URIs of runs at a URI or in its folders, not deeper than ``MAX_BUCKET_DEPTH``.

    Args:
        uri: Where to look.
        depth: How many levels of folders below are looked at.

    Raises:
        ConfigurationError: If it cannot be read.
    """
    from raytrainer.storage.store import ObjectStore

    try:
        store = ObjectStore(uri, BEFORE_A_RUN)
        folders = store.folders()
        is_one = is_run_in_bucket(store, folders)
        if not folders and not is_one and (missing := store.missing_bucket()) is not None:
            raise no_bucket(uri, missing)
    except OSError as error:
        raise cannot_read(uri, error) from error
    if is_one:
        yield uri
    for name in folders if depth else ():
        if not name.startswith(".") and name != FOLDER and step_of(Path(name)) is None:
            yield from find_in_bucket(join(uri, name), depth - 1)


def facts_of(location: str) -> dict[str, Any]:
    """What is known of a run, without reading all of its numbers."""
    with run_directory(location) as directory:
        record = read_record(directory, location=location, tail_only=True)
    there = [save.step for save in record.saves if save.is_there]
    state = state_of(location, record)
    return {
        "directory": location,
        "state": state,
        "alive": state in ("running", "restarting"),
        "step": record.step,
        "max_steps": record.max_steps,
        "loss": record.last("loss"),
        "best_metric": None if record.best_metric is None else record.best_metric[1],
        "last_checkpoint": max(there, default=None),
        "restarts": len(record.restarts),
        "began": record.began,
        "last_record": record.heard,
    }


def _table(found: list[dict[str, Any]], root: str) -> str:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("run", no_wrap=True)
    for title in ("state", "step", "loss", "best", "saved", "last heard"):
        justify = "left" if title in ("state", "last heard") else "right"
        table.add_column(title, no_wrap=True, justify=justify, min_width=len(title))
    for facts in found:
        of = f"/{facts['max_steps']}" if facts["max_steps"] else ""
        heard = facts["last_record"]
        table.add_row(
            _name(facts["directory"], root),
            Text(facts["state"], style=_STYLES.get(facts["state"], "")),
            f"{facts['step']}{of}",
            _number(facts["loss"]),
            _number(facts["best_metric"]),
            "-" if facts["last_checkpoint"] is None else str(facts["last_checkpoint"]),
            "-" if heard is None else format_ago(time.time() - heard),
        )
    # Who reads a file or a pipe gets whole names.
    width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else _UNLIMITED
    utf8 = glyphs_for(sys.stdout) is UNICODE
    return drawn(table, width=width, paint=Paint(wants_style(sys.stdout)), utf8=utf8)


def _name(location: str, root: str) -> str:
    if is_uri(root):
        return (
            split(root)[1]
            if location == root
            else without_options(location)[len(without_options(root)) + 1 :]
        )
    here, top = Path(location), Path(root)
    return here.resolve().name if here == top else os.path.relpath(here, top)


def _number(value: float | None) -> str:
    return "-" if value is None else format_value(value)
