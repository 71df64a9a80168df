"""The record of a run in a bucket: sent whole by each process, at a bounded rate, and never worth a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from raytrainer.report.directory import copy_run, record_files, run_directory
from raytrainer.report.record import read_record
from raytrainer.telemetry import bucket_records as module
from raytrainer.telemetry.bucket_records import BucketRecords
from raytrainer.telemetry.events import CheckpointCommitted, Logged, Note, TrainEnded, TrainStarted
from raytrainer.telemetry.run_files import RunFiles
from tests.buckets import MemoryBucket


@pytest.fixture
def records(memory_bucket: MemoryBucket) -> BucketRecords:
    return BucketRecords(memory_bucket.uri)


def recorded(records: BucketRecords, rank: int | None = 0, *, tells: bool = True) -> RunFiles:
    return RunFiles(records.directory, rank=rank, run=lambda: ("r", 0), tells=tells, bucket=records)


START = TrainStarted(max_steps=10, first_step=0, num_epochs=1, attempt=0, rows=[])


def logs(bucket: MemoryBucket) -> list[int]:
    """The steps that were logged, of what is in the bucket."""
    lines = [
        json.loads(line)
        for name in bucket.objects()
        if "metrics-" in name
        for line in bucket.read(name).splitlines()
    ]
    return [line["step"] for line in lines if line["kind"] == "log"]


def test_the_end_of_a_run_brings_all_of_its_record(memory_bucket: MemoryBucket, records: BucketRecords):
    files = recorded(records)
    files.handle(START)
    for step in (1, 2):
        files.handle(Logged(step=step, max_steps=10, logs={"loss": 1.0}))
    files.handle(TrainEnded(step=2))
    assert logs(memory_bucket) == [1, 2]
    with run_directory(memory_bucket.uri) as copy:
        record = read_record(copy)
    assert (record.step, record.max_steps, record.last("loss")) == (2, 10, 1.0)
    assert [attempt.ending for attempt in record.attempts] == ["end"]


def test_nothing_stays_in_the_stage_and_the_next_call_adds_to_the_record(
    memory_bucket: MemoryBucket, records: BucketRecords
):
    files = recorded(records)
    for step in (1, 2):
        files.handle(START)
        files.handle(Logged(step=step, max_steps=10, logs={"loss": 1.0}))
        files.handle(TrainEnded(step=step))
        assert list(records.directory.iterdir()) == []
    files.handle(Logged(step=2, max_steps=10, logs={"eval_loss": 1.0}))
    assert list(records.directory.iterdir()) == [], "an evaluation outside of training is a call of its own"
    assert sorted(logs(memory_bucket)) == [1, 2]


def test_a_save_brings_the_lines_before_it_soon(
    memory_bucket: MemoryBucket, records: BucketRecords, monkeypatch: pytest.MonkeyPatch
):
    asked: list[bool] = []
    monkeypatch.setattr(records, "send_soon", lambda: asked.append(True))
    files = recorded(records)
    files.handle(START)
    files.handle(Logged(step=1, max_steps=10, logs={"loss": 1.0}))
    assert not asked
    files.handle(CheckpointCommitted(step=1, path="x", num_bytes=1, seconds=0.1))
    assert asked


def test_what_was_sent_a_moment_ago_waits_and_large_files_wait_longer(
    memory_bucket: MemoryBucket, records: BucketRecords, monkeypatch: pytest.MonkeyPatch
):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    files = recorded(records)
    files.handle(START)
    files.handle(Logged(step=1, max_steps=10, logs={"loss": 1.0}))
    records.send(only_due=True)
    assert logs(memory_bucket) == [1]
    files.handle(Logged(step=2, max_steps=10, logs={"loss": 1.0}))
    now[0] += module.INTERVAL_S - 1
    records.send(only_due=True)
    assert logs(memory_bucket) == [1]
    monkeypatch.setattr(module, "BYTES_PER_S", 1)
    now[0] += 2
    records.send(only_due=True)
    assert logs(memory_bucket) == [1], "some hundred bytes at a byte a second"
    monkeypatch.setattr(module, "BYTES_PER_S", 100_000)
    records.send(only_due=True)
    assert logs(memory_bucket) == [1, 2]


def test_processes_write_objects_of_their_own_and_readers_take_them_together(
    memory_bucket: MemoryBucket, records: BucketRecords, tmp_path: Path
):
    rank, driver = recorded(records, tells=False), recorded(BucketRecords(memory_bucket.uri), None)
    driver_directory = tmp_path / "driver"
    driver._events.path = driver_directory / "events.jsonl"
    driver._bucket.directory = driver_directory  # pyright: ignore[reportOptionalMemberAccess]
    rank.handle(START)
    driver.handle(Note(text="A node was lost.", level="warning", kind="restart"))
    rank.close()
    driver.close()
    assert len([name for name in memory_bucket.objects() if name.startswith("run-records/events-")]) == 2
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_run(memory_bucket.uri, copy)
    assert len(record_files(copy, "events.jsonl")) == 2
    assert [one.text for one in read_record(copy).happenings] == ["A node was lost."]


def test_a_line_that_is_being_written_is_left_for_the_next_time(
    memory_bucket: MemoryBucket, records: BucketRecords
):
    files = recorded(records)
    files.handle(START)
    files.handle(Logged(step=1, max_steps=10, logs={"loss": 1.0}))
    with (records.directory / "metrics.jsonl").open("ab") as file:
        file.write(b'{"v":1,"kind":"lo')
    records.send()
    assert logs(memory_bucket) == [1]


def test_a_bucket_that_fails_costs_one_warning(
    memory_bucket: MemoryBucket,
    records: BucketRecords,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    def fail(*_: object) -> None:
        raise OSError("403")

    monkeypatch.setattr("raytrainer.storage.store.ObjectStore.put_text", fail)
    files = recorded(records)
    files.handle(START)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            files.handle(Logged(step=step, max_steps=10, logs={"loss": 1.0}))
            records.send()
    assert caplog.text.count("could not be written to memory://") == 1
