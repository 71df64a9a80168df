"""``raytrainer watch``: shows a run as its driver shows it, by what the run writes into its directory."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raytrainer.checkpoint.lease import is_held
from raytrainer.cli.runs import SILENCE_IN_BUCKET_S
from raytrainer.report.directory import copy_run, record_files, run_directory
from raytrainer.report.record import ENDINGS
from raytrainer.storage.locations import is_uri
from raytrainer.telemetry.console import Renderer
from raytrainer.telemetry.events import (
    CheckpointCommitted,
    EngagedRow,
    Logged,
    Note,
    StepDone,
    TrainEnded,
    TrainStarted,
)
from raytrainer.telemetry.json_lines import LinesSince
from raytrainer.telemetry.run_files import EVENTS_NAME, METRICS_NAME

INTERVAL_S = 0.5
BUCKET_INTERVAL_S = 15.0
SILENCE_S = 60.0
"""A run that nobody holds and that has been silent for so long is over [s]."""


def watch(location: str, *, once: bool, as_json: bool = False) -> int:
    """Show a run until it ends.

    Args:
        location: Its directory or URI.
        once: End when all that is there was shown.
        as_json: Print each line of its record as it is.

    Returns:
        The exit code: 1 if the run failed, or was killed.

    Raises:
        ConfigurationError: If there is no run.
    """
    renderer = Renderer()
    follower = Follower(location)
    try:
        while True:
            for line in follower.news():
                if as_json:
                    print(json.dumps(line), flush=True)
                    continue
                for event in events_of(line, follower.max_steps):
                    renderer.handle(event)
            if once or follower.is_over:
                break
            time.sleep(BUCKET_INTERVAL_S if is_uri(location) else INTERVAL_S)
    except KeyboardInterrupt:
        return 0
    finally:
        renderer.close()
    if follower.ending is None and not as_json:
        if once and (is_uri(location) or is_held(Path(location))):
            print("The run has not ended.")
        else:
            print("The run was killed: nothing holds its directory any more, and it has written no end.")
    return 1 if follower.ending == "failed" or (follower.ending is None and not once) else 0


class Follower:
    """The lines of a run, as they come.

    Args:
        location: Its directory or URI.
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self._seen: dict[Path, int] = {}
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._silent_since = time.monotonic()
        self.ending: str | None = None
        """``end``, ``failed`` or ``interrupted``, when the run has written one."""
        self.max_steps = 0
        """Of the run, once it has started."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        if self.ending is not None:
            return True
        silent_s = time.monotonic() - self._silent_since
        if is_uri(self._location):
            return silent_s > SILENCE_IN_BUCKET_S
        return silent_s > SILENCE_S and not is_held(Path(self._location))

    def news(self) -> Iterator[dict[str, Any]]:
        """What was written since the last call, by time."""
        lines: list[dict[str, Any]] = []
        for path in self._files():
            read = LinesSince(path, self._seen.get(path, 0))
            lines += read
            self._seen[path] = read.end
        if lines:
            self._silent_since = time.monotonic()
        lines.sort(key=lambda line: line.get("time", 0.0))
        for line in lines:
            kind = line.get("kind")
            if kind == "start":
                self.max_steps = int(line.get("max_steps", 0))
            self.ending = kind if kind in ENDINGS else None if kind == "start" else self.ending
            yield line

    def _files(self) -> list[Path]:
        """Those of its directory, or of a copy of its bucket, which gets what has changed since."""
        if is_uri(self._location):
            self._copy = self._copy or tempfile.TemporaryDirectory(prefix="raytrainer-watch-")
            directory = Path(self._copy.name)
            copy_run(self._location, directory)
        else:
            with run_directory(self._location) as directory:
                pass
        return [path for name in (METRICS_NAME, EVENTS_NAME) for path in record_files(directory, name)]


def events_of(line: dict[str, Any], max_steps: int = 0) -> Iterator[object]:
    """The events that a line tells of.

    Args:
        line: Of the record.
        max_steps: Of the run, which not every line has.
    """
    kind, step = line.get("kind"), int(line.get("step", 0))
    if kind == "start":
        rows: list[dict[str, Any]] = line.get("engaged") or []
        yield TrainStarted(
            max_steps=int(line.get("max_steps", 0)),
            first_step=int(line.get("first_step", 0)),
            num_epochs=int(line.get("epochs", 0)),
            attempt=int(line.get("attempt") or 0),
            rows=[EngagedRow(**row) for row in rows],
            num_workers=int(line.get("workers", 1)),
            resumed_from=line.get("resumed_from"),
        )
    elif kind in ("log", "eval", "summary", "progress"):
        values: dict[str, Any] = dict(line.get("values") or {})
        of = int(line.get("max_steps", 0)) or max_steps
        if kind in ("log", "progress") and of:
            epoch = float(values.get("epoch") or 0.0)
            speeds: list[float] = list(line.get("samples_per_s") or [])
            yield StepDone(step=step, max_steps=of, epoch=epoch, samples_per_s=speeds)
        if kind != "progress":
            yield Logged(step=step, max_steps=of, logs=values)
    elif kind == "save":
        yield CheckpointCommitted(
            step=step,
            path=str(line["path"]),
            num_bytes=int(line["bytes"]),
            seconds=float(line["seconds"]),
            waited_s=line.get("waited_s"),
        )
    elif kind == "end":
        metrics: dict[str, Any] = dict(line.get("metrics") or {})
        places: dict[str, Any] = dict(line.get("places") or {})
        yield TrainEnded(step=step, metrics=metrics, places=places, interrupted=bool(line.get("interrupted")))
    else:
        text = str(line.get("text", ""))
        yield Note(text=text, level="info" if kind == "note" else "warning")
