"""What the files of a run say about it: its attempts, its numbers, what happened, its checkpoints.

A restart does steps again that were logged before the death. Only what the last attempt did counts for a step, and what
was lost is kept apart (``Sample.is_lost``): a curve over steps has one value for each, a curve over time shows all of
it. A directory may hold several calls of ``train()``: a call that went on from a checkpoint continues the one before, a
call that began at step 0 hides those before it.

A run without ``metrics.jsonl`` (of an earlier version, or of transformers) is read from the state of its newest
checkpoint, which has no times.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from raytrainer.checkpoint.names import STATE_NAME, list_checkpoints, step_of
from raytrainer.report.directory import record_files
from raytrainer.telemetry.json_lines import read_lines
from raytrainer.telemetry.run_files import EVENTS_NAME, METRICS_NAME

_NO_CURVE = frozenset(
    {
        "epoch",
        "eval_runtime",
        "num_input_tokens_seen",
        "num_workers",  # the attempts have it
        "step",
        "total_flos",
        "train_loss",
        "train_runtime",
    }
)
_NO_CURVE_ENDINGS = ("_runtime", "_samples_per_second", "_steps_per_second", "_model_preparation_time")
TAIL_BYTES = 64 * 1024
"""How much of the numbers is read for a summary."""
ENDINGS = ("end", "failed", "interrupted")
CAUSES = ("restart", "move", "resize", "failed", "interrupted")
"""Kinds of events that are told apart in curves."""


@dataclass(slots=True)
class Sample:
    """A value at a step."""

    step: int
    time: float | None
    """[s since the epoch]; None where the record has no times."""
    value: float
    is_lost: bool = False
    """A death took the step back, and it was done again."""


@dataclass(kw_only=True, slots=True)
class Attempt:
    """One start of the workers."""

    run: str
    number: int
    """0 for the first start of a call."""
    began: float
    first_step: int
    workers: int
    resumed_from: str | None = None
    last_step: int = 0
    ended: float = 0.0
    """When it was last heard of."""
    ending: str = "running"
    """``end``, ``restart``, ``move``, ``failed``, ``interrupted``, or ``running`` where nothing says how it ended."""
    cause: str = ""


@dataclass(kw_only=True, slots=True)
class Happening:
    """Something that people were told."""

    kind: str
    time: float
    step: int
    text: str
    rank: int | None = None


@dataclass(kw_only=True, slots=True)
class Save:
    """A checkpoint that was committed."""

    step: int
    time: float | None
    num_bytes: int | None
    seconds: float | None
    waited_s: float | None = None
    """How long training waited, if it was not all the time [s]."""
    is_there: bool = True
    is_best: bool = False


@dataclass(kw_only=True)
class Record:
    """A run."""

    name: str
    location: str
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    series: dict[str, list[Sample]] = field(default_factory=dict[str, list[Sample]])
    """By the name of what was logged; ``samples_per_s`` over all workers, ``memory_...`` [bytes] of rank 0."""
    happenings: list[Happening] = field(default_factory=list[Happening])
    saves: list[Save] = field(default_factory=list[Save])
    engaged: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    environment: dict[str, Any] = field(default_factory=dict[str, Any])
    final: dict[str, Any] = field(default_factory=dict[str, Any])
    """What training returned."""
    max_steps: int = 0
    earlier_calls: int = 0
    """Calls of ``train()`` in this directory that a later one began anew."""
    best_metric: tuple[str, float] | None = None

    @property
    def step(self) -> int:
        """Optimizer steps that are done, as far as is known."""
        steps = [attempt.last_step for attempt in self.attempts[-1:]]
        return max([*steps, *(samples[-1].step for samples in self.series.values() if samples)], default=0)

    @property
    def began(self) -> float | None:
        """When the first attempt began [s since the epoch]."""
        return self.attempts[0].began if self.attempts else None

    @property
    def heard(self) -> float | None:
        """When it was last heard of [s since the epoch]."""
        times = [attempt.ended for attempt in self.attempts] or [one.time for one in self.happenings]
        return max(times, default=None)

    @property
    def state(self) -> str:
        """``finished``, ``stopped early``, ``interrupted``, ``failed``, or ``unfinished``: it runs, or was killed."""
        endings = [happening.kind for happening in self.happenings if happening.kind in ENDINGS]
        # A call may end before its first attempt begins.
        ending = self.attempts[-1].ending if self.attempts else "".join(endings[-1:])
        if ending == "end":
            return "finished" if self.step >= self.max_steps else "stopped early"
        if ending in ("failed", "interrupted"):
            return ending
        if not ending and self.step >= self.max_steps > 0:  # of transformers, which records no end
            return "finished"
        return "unfinished"

    @property
    def restarts(self) -> list[Attempt]:
        """Attempts that a death or failure ended, and that others followed."""
        return [attempt for attempt in self.attempts if attempt.ending == "restart"]

    def last(self, name: str) -> float | None:
        """The newest value of a series."""
        samples = [sample for sample in self.series.get(name, []) if not sample.is_lost]
        return samples[-1].value if samples else None


def read_record(directory: Path, *, location: str | None = None, tail_only: bool = False) -> Record:
    """Read a run.

    Args:
        directory: With its files.
        location: Where it is, if the directory is a copy.
        tail_only: Read only the newest numbers, which takes milliseconds.
    """
    location = location or str(directory)
    record = Record(name=Path(location.rstrip("/")).name or location, location=location)
    lines = [
        line
        for name in (METRICS_NAME, EVENTS_NAME)
        for path in record_files(directory, name)
        for line in read_lines(path, tail_bytes=TAIL_BYTES if tail_only and name == METRICS_NAME else None)
        if isinstance(line.get("time"), int | float) and isinstance(line.get("step"), int)
    ]
    lines.sort(key=lambda line: line["time"])
    for line in lines:
        _take(record, line)
    state = _newest_state(directory)
    if not record.series and state is not None:
        _take_history(record, state)
    _look_at_checkpoints(record, directory, state)
    return record


def _take(record: Record, line: dict[str, Any]) -> None:
    kind = str(line.get("kind"))
    if kind == "start":
        _start(record, line)
        return
    if record.attempts and line.get("run") == record.attempts[-1].run:
        _hear(record.attempts[-1], line, kind)
    if kind in ("log", "eval", "progress"):
        _numbers(record, line, kind)
    elif kind == "save":
        _save(record, line)
    elif kind == "end":
        record.final = dict(line.get("metrics") or {})
    elif kind != "summary":
        text = str(line.get("text", ""))
        if kind in ("failed", "interrupted"):
            text = _ending(str(line.get("error", "")), text)
        record.happenings.append(
            Happening(kind=kind, time=line["time"], step=line["step"], text=text, rank=line.get("rank"))
        )


def _ending(error: str, text: str) -> str:
    """How a call ended: what Python calls the end of a process says nothing to people."""
    if error == "SystemExit":
        return (
            f"The process was told to end (exit status {text})." if text else "The process was told to end."
        )
    if error == "KeyboardInterrupt" and not text:
        return "Ctrl-C"
    return f"{error}: {text}".strip(": ")


def _start(record: Record, line: dict[str, Any]) -> None:
    first = int(line.get("first_step", 0))
    run, number = str(line.get("run", "")), int(line.get("attempt") or 0)
    is_new_call = not record.attempts or record.attempts[-1].run != run
    if is_new_call and first == 0 and record.attempts:
        _begin_anew(record)
    if record.attempts:
        before = record.attempts[-1]
        if before.ending == "running":
            before.ending = "died" if is_new_call else "restart"
        _lose(record, first)
    record.attempts.append(
        Attempt(
            run=run,
            number=number,
            began=line["time"],
            first_step=first,
            last_step=first,
            ended=line["time"],
            workers=int(line.get("workers", 1)),
            resumed_from=line.get("resumed_from"),
        )
    )
    record.max_steps = int(line.get("max_steps", 0))
    record.engaged = list(line.get("engaged") or [])
    record.arguments = dict(line.get("arguments") or {})
    record.environment = dict(line.get("environment") or {})


def _begin_anew(record: Record) -> None:
    record.earlier_calls += len({attempt.run for attempt in record.attempts})
    record.attempts.clear()
    record.series.clear()
    record.happenings.clear()
    record.saves.clear()
    record.final = {}


def _lose(record: Record, first: int) -> None:
    """What was logged after a step that an attempt begins at is done again."""
    for samples in record.series.values():
        for sample in reversed(samples):
            if sample.step <= first and not sample.is_lost:
                break
            sample.is_lost = sample.is_lost or sample.step > first


def _hear(attempt: Attempt, line: dict[str, Any], kind: str) -> None:
    attempt.ended = max(attempt.ended, line["time"])
    if line.get("rank") is not None:
        attempt.last_step = max(attempt.last_step, line["step"])
    if kind in ENDINGS or kind in ("restart", "move"):
        attempt.ending, attempt.cause = kind, str(line.get("text", ""))
        if kind == "end" and line.get("interrupted"):
            attempt.ending = "interrupted"


def _numbers(record: Record, line: dict[str, Any], kind: str) -> None:
    step, time = line["step"], line["time"]
    if kind != "progress":
        for name, found in dict(line.get("values") or {}).items():
            _add(record, name, step, time, found)
    speeds = line.get("samples_per_s")
    if speeds:
        _add(record, "samples_per_s", step, time, sum(speeds))
    for name, found in dict(line.get("memory") or {}).items():
        _add(record, f"memory_{name}", step, time, found)


def _add(record: Record, name: str, step: int, time: float | None, found: object) -> None:
    if name in _NO_CURVE or name.endswith(_NO_CURVE_ENDINGS):
        return
    value = _as_number(found)
    if value is not None:
        record.series.setdefault(name, []).append(Sample(step, time, value))


def _as_number(found: object) -> float | None:
    if type(found) is float:
        return found
    if isinstance(found, bool):
        return None
    if isinstance(found, int | float):
        return float(found)
    return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(str(found))


def _save(record: Record, line: dict[str, Any]) -> None:
    record.saves = [save for save in record.saves if save.step != line["step"]]
    record.saves.append(
        Save(
            step=line["step"],
            time=line["time"],
            num_bytes=line.get("bytes"),
            seconds=line.get("seconds"),
            waited_s=line.get("waited_s"),
        )
    )


def _newest_state(directory: Path) -> dict[str, Any] | None:
    for path in reversed(list_checkpoints(directory)):
        try:
            found: object = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return cast("dict[str, Any]", found)
    return None


def _take_history(record: Record, state: dict[str, Any]) -> None:
    """The logs that a checkpoint holds, for a run that has no record."""
    record.max_steps = int(state.get("max_steps") or 0)
    history = cast("Iterable[dict[str, Any]]", state.get("log_history") or [])
    for row in history:
        for name, found in row.items():
            _add(record, name, int(row.get("step", 0)), None, found)


def _look_at_checkpoints(record: Record, directory: Path, state: dict[str, Any] | None) -> None:
    there = {step for path in list_checkpoints(directory) if (step := step_of(path)) is not None}
    known = {save.step for save in record.saves}
    record.saves += [
        Save(step=step, time=None, num_bytes=None, seconds=None) for step in sorted(there - known)
    ]
    record.saves.sort(key=lambda save: save.step)
    best = (state or {}).get("best_model_checkpoint")
    best_step = step_of(Path(str(best))) if best else None
    for save in record.saves:
        save.is_there = save.step in there
        save.is_best = save.step == best_step
    metric = _as_number((state or {}).get("best_metric"))
    if metric is not None:
        record.best_metric = (str(record.arguments.get("metric_for_best_model") or "metric"), metric)
