"""When each phase of a start began and ended, in every process of a run, on one axis of time: ``debug="startup"``.

Each process keeps the phases that it went through, a few readings of a clock, and appends them to a file of its own in
``logs/`` of the run once its first step is done. The process that shows the run to people puts them together: a file
that Perfetto (ui.perfetto.dev) and ``chrome://tracing`` open, and a table.

Times are seconds since the epoch, so those of several machines are as far apart as their clocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from raytrainer.telemetry.events import Phase
from raytrainer.telemetry.json_lines import JsonLines, read_lines

TRACE_NAME = "startup_trace.json"
"""File of the run's directory that Perfetto opens."""
_PREFIX = "startup-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A phase of a process.

    Attributes:
        process: What the process is, such as "driver" or "rank 0".
        phase: What it did.
        began: [s since the epoch]
        ended: [s since the epoch]
        attempt: Of the workers; 0 is the first.
    """

    process: str
    phase: str
    began: float
    ended: float
    attempt: int = 0

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended - self.began


class Phases:
    """The phases of this process.

    Args:
        process: What it is.
    """

    def __init__(self, process: str = "") -> None:
        self.process = process
        self.attempt = 0
        self.has_driver = False
        """Another process puts the phases of all together."""
        self._spans: list[Span] = []

    def add(self, phase: str, began: float, ended: float | None = None) -> None:
        """Note a phase that has ended, by default now."""
        now = time.time() if ended is None else ended
        self._spans.append(Span(process="", phase=phase, began=began, ended=now))

    @property
    def last(self) -> float:
        """When the newest one ended; when this process began if there is none."""
        return self._spans[-1].ended if self._spans else process_began()

    @contextlib.contextmanager
    def phase(self, name: str) -> Generator[None]:
        """The block is a phase, also if it fails."""
        began = time.time()
        try:
            yield
        finally:
            self.add(name, began)

    def known(self) -> list[Phase]:
        """All phases that nobody has taken."""
        return [Phase(name=span.phase, began=span.began, ended=span.ended) for span in self._spans]

    def take(self) -> list[Span]:
        """The phases since the last call, under the name that the process has now."""
        spans, self._spans = self._spans, []
        return [replace(span, process=self.process, attempt=self.attempt) for span in spans]


here = Phases()
"""Those of this process."""


def process_began(pid: int | None = None) -> float:
    """When a process was made [s since the epoch].

    Args:
        pid: Of the process; by default this one.
    """
    import psutil

    return psutil.Process(pid).create_time()


def write_spans(directory: str | os.PathLike[str], spans: Iterable[Span]) -> None:
    """Append phases to the file of their process.

    Args:
        directory: Of the run.
        spans: Of one process.

    Raises:
        OSError: If it cannot be written.
    """
    for span in spans:
        lines = JsonLines(_folder(directory) / f"{_PREFIX}{span.process.replace(' ', '-')}.jsonl")
        lines.append(asdict(span))
        lines.close()


def read_spans(directory: str | os.PathLike[str]) -> list[Span]:
    """The phases of all processes of a run, by when they began; of several runs in a directory the newest.

    Args:
        directory: Of the run.
    """
    found = [
        Span(**line)
        for path in sorted(_folder(directory).glob(f"{_PREFIX}*.jsonl"))
        for line in read_lines(path)
    ]
    return sorted(found, key=lambda span: (span.began, -span.ended))


def forget_spans(directory: str | os.PathLike[str]) -> None:
    """Remove the phases of an earlier start.

    Args:
        directory: Of the run.
    """
    for path in _folder(directory).glob(f"{_PREFIX}*.jsonl"):
        path.unlink(missing_ok=True)


def _folder(directory: str | os.PathLike[str]) -> Path:
    return Path(directory) / "logs"


def write_trace(directory: str | os.PathLike[str], spans: list[Span]) -> Path:
    """Write the file that Perfetto opens: a track for each process, in the order in which they began.

    Args:
        directory: Of the run.
        spans: Of all processes.

    Returns:
        Its path.
    """
    origin = min((span.began for span in spans), default=0.0)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(span.process for span in spans), 1)}
    events: list[dict[str, object]] = []
    for name, number in numbers.items():
        events.append({"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}})
        events.append(
            {"ph": "M", "name": "process_sort_index", "pid": number, "args": {"sort_index": number}}
        )
    events.extend(
        {
            "ph": "X",
            "name": span.phase,
            "pid": numbers[span.process],
            "tid": span.attempt,
            "ts": round(1e6 * (span.began - origin)),
            "dur": max(1, round(1e6 * span.seconds)),
            "args": {"attempt": span.attempt},
        }
        for span in spans
    )
    path = Path(directory) / TRACE_NAME
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
    return path


def table(spans: list[Span]) -> str:
    """The phases as text of at most 80 columns: process, phase, begin, end and length [s], and where it lies.

    Args:
        spans: Of all processes, by when they began.
    """
    if not spans:
        return "No process has noted when it started."
    origin, end = min(span.began for span in spans), max(span.ended for span in spans)
    names = max(len(span.process) for span in spans)
    phases = max(len(span.phase) for span in spans)
    width = max(8, 80 - names - phases - 25)
    lines = [f"{'':{names}}  {'':{phases}}  {'begin':>6} {'end':>6} {'s':>6}"]
    before = ""
    for span in sorted(spans, key=lambda one: (_first_of(spans, one.process), one.began, -one.ended)):
        name = span.process if span.process != before else ""
        before = span.process
        lines.append(
            f"{name:{names}}  {span.phase:{phases}}  {span.began - origin:6.2f} {span.ended - origin:6.2f} "
            f"{span.seconds:6.2f}  {_bar(span, origin, end, width)}".rstrip()
        )
    return "\n".join(lines)


def _first_of(spans: list[Span], process: str) -> float:
    return min(span.began for span in spans if span.process == process)


def _bar(span: Span, origin: float, end: float, width: int) -> str:
    scale = width / max(end - origin, 1e-9)
    first = min(width - 1, int((span.began - origin) * scale))
    return " " * first + "▇" * max(1, round(span.seconds * scale))
