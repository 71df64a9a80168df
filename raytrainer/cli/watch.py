"""``raytrainer watch``: shows a run as its driver shows it, by what the run writes into its directory."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raytrainer.errors import ConfigurationError
from raytrainer.report.directory import copy_run, record_files, run_directory
from raytrainer.report.life import RESTARTING, goes_on
from raytrainer.report.record import ENDINGS
from raytrainer.storage.locations import is_uri
from raytrainer.storage.retry import BEFORE_A_RUN, DURING_A_RUN
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
"""So long it may take until a driver tells of a death [s]."""
_KILLED = "The run was killed: nothing holds its directory any more, and it has written no end."
_GOES_ON = "The run has not ended."


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
    if follower.ending is not None:
        return 1 if follower.ending == "failed" else 0
    is_dead = follower.has_died
    print(_KILLED if is_dead else _GOES_ON, file=sys.stderr if as_json else sys.stdout)
    return 1 if is_dead else 0


class Follower:
    """The lines of a run, as they come.

    Args:
        location: Its directory or URI.
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self._seen: dict[Path, int] = {}
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._heard: float | None = None
        """When it was last heard of [s since the epoch]."""
        self._restarts = False
        self.ending: str | None = None
        """``end``, ``failed`` or ``interrupted``, when the run has written one."""
        self.max_steps = 0
        """Of the run, once it has started."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        if self.ending is not None:
            return True
        return time.time() - (self._heard or 0.0) > SILENCE_S and self.has_died

    @property
    def has_died(self) -> bool:
        """Whether a run that has written no end does not go on, as it looks now."""
        return not goes_on(self._location, heard=self._heard, restarts=self._restarts)

    def news(self) -> Iterator[dict[str, Any]]:
        """What was written since the last call, by time."""
        lines: list[dict[str, Any]] = []
        for path in self._files():
            read = LinesSince(path, self._seen.get(path, 0))
            lines += read
            self._seen[path] = read.end
        lines.sort(key=lambda line: line.get("time", 0.0))
        for line in lines:
            kind = line.get("kind")
            self._heard = line.get("time", self._heard)
            if kind == "start":
                self.max_steps = int(line.get("max_steps", 0))
                self._restarts = False
            self._restarts = self._restarts or kind in RESTARTING
            self.ending = kind if kind in ENDINGS else None if kind == "start" else self.ending
            yield line

    def _files(self) -> list[Path]:
        """Those of its directory, or of a copy of its bucket, which gets what has changed since."""
        if is_uri(self._location):
            patience = BEFORE_A_RUN if self._copy is None else DURING_A_RUN
            self._copy = self._copy or tempfile.TemporaryDirectory(prefix="raytrainer-watch-")
            directory = Path(self._copy.name)
            copy_run(self._location, directory, patience)
        else:
            with run_directory(self._location) as directory:
                pass
        found = [path for name in (METRICS_NAME, EVENTS_NAME) for path in record_files(directory, name)]
        if not found and self.has_died:
            raise ConfigurationError(
                f"{self._location} has checkpoints, but no record of its run, so there is nothing to watch. "
                "`raytrainer report` shows what its checkpoints say."
            )
        return found


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
