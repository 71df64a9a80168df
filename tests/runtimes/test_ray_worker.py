"""What rank 0 of Ray workers records where; no Ray is started."""

from __future__ import annotations

import json
from pathlib import Path

from raytrainer.runtimes.ray_worker import RayRuntime
from raytrainer.telemetry.events import Logged, Note, TrainStarted
from tests.buckets import MemoryBucket


def rank_zero() -> RayRuntime:
    """A rank that no Ray Train has started."""
    runtime = object.__new__(RayRuntime)
    runtime.rank, runtime.run_id, runtime.attempt = 0, "r", 0
    runtime._files, runtime._events = None, None
    return runtime


def emit_all(runtime: RayRuntime) -> None:
    runtime.emit(TrainStarted(max_steps=2, first_step=0, num_epochs=1, attempt=0, rows=[]))
    runtime.emit(Logged(step=1, max_steps=2, logs={"loss": 1.0}))
    runtime.emit(Note(text="the driver records what people are told", level="warning"))


def test_a_run_in_a_bucket_is_recorded_there_and_goes_on_in_another_object(memory_bucket: MemoryBucket):
    runtime = rank_zero()
    runtime.record_in(memory_bucket.uri)
    for _ in range(2):
        emit_all(runtime)
        runtime.share_records()
    objects = memory_bucket.objects("run/run-records/")
    assert sorted(name.partition("-")[0] for name in objects) == ["events", "events", "metrics", "metrics"]
    lines = [
        json.loads(line)
        for name in objects
        for line in memory_bucket.read(f"run-records/{name}").splitlines()
    ]
    assert sorted(line["kind"] for line in lines) == ["log", "log", "start", "start"]
    assert {line["rank"] for line in lines} == {0}


def test_a_run_in_a_directory_is_recorded_line_by_line(tmp_path: Path):
    runtime = rank_zero()
    runtime.record_in(str(tmp_path))
    emit_all(runtime)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["log"]
    runtime.share_records()
    emit_all(runtime)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
