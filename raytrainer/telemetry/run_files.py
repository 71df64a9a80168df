"""What ``metrics.jsonl`` and ``events.jsonl`` of a run directory say, and who writes which line of them.

Rank 0 writes what training did: logs, evaluations, saves, starts and ends. The driver writes what people were told:
restarts and their causes, resizes, warnings, and the failure that ended the run. Both append to the same files, line by
line (``telemetry.json_lines``). In one process and under a launcher rank 0 writes all of it.

Every line has ``v`` (the version of the schema), ``kind``, ``time`` [s since the epoch], ``step``, ``attempt`` (0 for
the first start of the workers), ``rank`` (null: the driver), and ``run``, which names one call of ``train()``. The
page docs/run-files.md describes each kind. A change that readers would notice raises ``VERSION``.

Records are never worth a run: a disk that is full ends them with one warning.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from raytrainer.storage.locations import is_uri
from raytrainer.telemetry.bucket_records import BucketRecords, records_of
from raytrainer.telemetry.environment import environment, memory
from raytrainer.telemetry.events import (
    CheckpointCommitted,
    Logged,
    Note,
    StepDone,
    TrainEnded,
    TrainFailed,
    TrainStarted,
)
from raytrainer.telemetry.formatting import is_evaluation, is_summary
from raytrainer.telemetry.json_lines import JsonLines
from raytrainer.telemetry.redaction import redacted

logger = logging.getLogger(__name__)

VERSION = 1
METRICS_NAME = "metrics.jsonl"
EVENTS_NAME = "events.jsonl"
PAGE_NAME = "report.html"
RECORD_NAMES = (METRICS_NAME, EVENTS_NAME, PAGE_NAME)
"""All that a run writes about itself into its directory; it has paths of its machines."""
PROGRESS_INTERVAL_S = 5.0
"""How far apart lines of progress are [s] where nothing is logged."""
MEMORY_INTERVAL_S = 1.0
"""How far apart memory is looked at [s]: asking takes longer than writing a line."""
_MAX_TEXT = 4000
"""How much of an error's text is kept [characters]."""


class RunFiles:
    """Appends to the files of one run directory.

    Args:
        directory: Where they are.
        rank: Of this process; None on a driver, which writes only what it tells people.
        run: Names the call of ``train()`` that runs now, and its attempt.
        tells: This process tells people about the run: it writes that.
        clock: Seconds since the epoch.
        bucket: Brings the files from ``directory`` into the bucket that the run is in.
    """

    def __init__(
        self,
        directory: Path,
        *,
        rank: int | None,
        run: Callable[[], tuple[str, int]],
        tells: bool = True,
        clock: Callable[[], float] = time.time,
        bucket: BucketRecords | None = None,
    ) -> None:
        self._metrics = JsonLines(directory / METRICS_NAME)
        self._events = JsonLines(directory / EVENTS_NAME)
        self._rank = rank
        self._run = run
        self._tells = tells
        self._clock = clock
        self._step = 0
        self._max_steps = 0
        self._speeds: list[float] = []
        self._progress_at = 0.0
        self._memory_at = 0.0
        self._attempt = 0
        self._is_broken = False
        self._is_training = False
        self._bucket = bucket

    def handle(self, event: object) -> None:
        """Write what an event says. Never raises."""
        try:
            self._note_progress(event)
            if self._tells and isinstance(event, Note | TrainFailed):
                self._told(event)
            elif self._rank is not None:
                self._record(event)
            self._bring(event)
        except OSError as error:
            self._give_up(error)
        except Exception:  # A record is never worth a run.
            logger.debug("Could not record %r.", event, exc_info=True)

    def close(self) -> None:
        """Close the files; a later event opens them again."""
        self._metrics.close()
        self._events.close()
        if self._bucket is not None:
            self._bucket.finish()

    def _bring(self, event: object) -> None:
        """Bring lines into a bucket: after a save soon, after a call at once."""
        if self._bucket is None:
            return
        if isinstance(event, CheckpointCommitted):
            self._bucket.send_soon()
        if isinstance(event, TrainStarted):
            self._is_training = True
            self._bucket.begin()
        elif isinstance(event, TrainEnded | TrainFailed):
            self._is_training = False
        if not self._is_training and isinstance(event, TrainEnded | TrainFailed | Logged):
            self.close()

    def _note_progress(self, event: object) -> None:
        if isinstance(event, TrainStarted):
            self._step, self._max_steps, self._attempt = event.first_step, event.max_steps, event.attempt
            self._speeds = []
        elif isinstance(event, StepDone):
            self._step, self._max_steps = event.step, event.max_steps
            self._speeds = event.samples_per_s or self._speeds
        elif isinstance(event, Logged | CheckpointCommitted | TrainEnded):
            self._step = event.step

    def _told(self, event: Note | TrainFailed) -> None:
        if isinstance(event, Note):
            kind = event.kind or ("warning" if event.level == "warning" else "note")
            self._write(self._events, kind, {"text": event.text})
        else:
            kind = "interrupted" if event.interrupted else "failed"
            self._write(self._events, kind, {"error": event.type_name, "text": event.text[:_MAX_TEXT]})

    def _record(self, event: object) -> None:
        if isinstance(event, Logged):
            self._logged(event)
        elif isinstance(event, StepDone):
            if self._clock() - self._progress_at >= PROGRESS_INTERVAL_S:
                self._write(self._metrics, "progress", {"values": {"epoch": event.epoch}, **self._position()})
        elif isinstance(event, TrainStarted):
            self._started(event)
        elif isinstance(event, CheckpointCommitted):
            saved: dict[str, object] = {
                "path": event.path,
                "bytes": event.num_bytes,
                "seconds": round(event.seconds, 4),
            }
            if event.waited_s is not None:
                saved["waited_s"] = round(event.waited_s, 4)
            self._write(self._events, "save", saved)
        elif isinstance(event, TrainEnded):
            values = {
                "max_steps": self._max_steps,
                "interrupted": event.interrupted,
                "metrics": event.metrics,
                "places": event.places,
            }
            self._write(self._events, "end", values)

    def _started(self, event: TrainStarted) -> None:
        self._progress_at = self._clock()
        values = {
            "first_step": event.first_step,
            "max_steps": event.max_steps,
            "epochs": event.num_epochs,
            "workers": event.num_workers,
            "resumed_from": event.resumed_from,
            "engaged": [asdict(row) for row in event.rows],
            "arguments": event.arguments,
            "environment": environment(),
        }
        self._write(self._events, "start", values)

    def _logged(self, event: Logged) -> None:
        if is_evaluation(event.logs):
            self._write(self._metrics, "eval", {"values": event.logs})
        elif is_summary(event.logs):
            self._write(self._metrics, "summary", {"values": event.logs})
        else:
            self._write(self._metrics, "log", {"values": event.logs, **self._position()})

    def _position(self) -> dict[str, object]:
        """What is known beside a log: how far the run goes, speed and memory."""
        self._progress_at = self._clock()
        speeds: dict[str, object] = {"max_steps": self._max_steps}
        if self._speeds:
            speeds["samples_per_s"] = [round(speed, 3) for speed in self._speeds]
        if self._clock() - self._memory_at >= MEMORY_INTERVAL_S:
            self._memory_at = self._clock()
            speeds["memory"] = memory()
        return speeds

    def _write(self, file: JsonLines, kind: str, values: Mapping[str, object]) -> None:
        if self._is_broken:
            return
        run, attempt = self._run()
        head: dict[str, object] = {
            "v": VERSION,
            "kind": kind,
            "time": round(self._clock(), 3),
            "step": self._step,
            "attempt": self._attempt if self._rank is None else attempt,
            "rank": self._rank,
            "run": run,
        }
        hidden = redacted(values)
        assert isinstance(hidden, dict)
        file.append(head | hidden)

    def _give_up(self, error: OSError) -> None:
        if not self._is_broken:
            self._is_broken = True
            logger.warning(
                "The run is no longer recorded in %s: %s. Training goes on.", self._metrics.path.parent, error
            )


def files_of_run(
    location: str, *, rank: int | None, run: Callable[[], tuple[str, int]], tells: bool = True
) -> RunFiles | None:
    """What records a run for this process; None if this machine has no place for it.

    Args:
        location: The run's ``output_dir``: a directory, or a URI, whose record is in the stage until it is sent.
        rank: As of ``RunFiles``, like the others.
        run: Likewise.
        tells: Likewise.
    """
    if not is_uri(location):
        return RunFiles(Path(location), rank=rank, run=run, tells=tells)
    bucket = records_of(location)
    if bucket is None:
        return None
    return RunFiles(bucket.directory, rank=rank, run=run, tells=tells, bucket=bucket)
