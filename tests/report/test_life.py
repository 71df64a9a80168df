"""A run without an end runs, restarts or was killed: by its lease, and by what it told of last."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from raytrainer.checkpoint import lease
from raytrainer.report.life import RESTART_S, SILENCE_IN_BUCKET_S, goes_on, state_of
from raytrainer.report.record import read_record
from raytrainer.telemetry.events import Note
from tests.buckets import MemoryBucket
from tests.report.runs import WrittenRun


def unfinished(directory: Path, *, ago: float = 0.0) -> WrittenRun:
    run = WrittenRun(directory, 10, began=time.time() - ago)
    run.start(0)
    return run


def hold(bucket: MemoryBucket, *, machine: str, pid: int = 1) -> None:
    holder = {"run_id": "one", "machine": machine, "pid": pid, "started": 0.0, "since": "then", "beat": 0}
    bucket.write(lease.NAME, json.dumps(holder).encode())


def state(directory: Path) -> str:
    return state_of(str(directory), read_record(directory))


def test_a_run_that_nothing_holds_was_killed(tmp_path: Path):
    unfinished(tmp_path)
    assert state(tmp_path) == "killed"


def test_a_run_whose_directory_is_held_runs(tmp_path: Path):
    unfinished(tmp_path)
    with lease.held(tmp_path, "one", report=pytest.fail):
        assert state(tmp_path) == "running"


@pytest.mark.parametrize("kind", ["restart", "move"])
def test_a_run_whose_driver_told_of_a_death_a_moment_ago_restarts(tmp_path: Path, kind: str):
    run = unfinished(tmp_path)
    run.driver.handle(Note(text="A worker died.", level="warning", kind=kind))
    assert state(tmp_path) == "restarting"


def test_a_run_that_never_came_back_from_a_restart_was_killed(tmp_path: Path):
    run = unfinished(tmp_path, ago=RESTART_S + 10)
    run.driver.handle(Note(text="A worker died.", level="warning", kind="restart"))
    assert state(tmp_path) == "killed"


def test_a_run_that_failed_before_its_first_step_has_failed(tmp_path: Path):
    run = WrittenRun(tmp_path, 10)
    from raytrainer.telemetry.events import TrainFailed

    run.driver.handle(TrainFailed(type_name="ConfigurationError", text="no room", interrupted=False))
    assert state(tmp_path) == "failed"


def test_a_bucket_whose_holder_died_on_this_machine_has_no_living_run(memory_bucket: MemoryBucket):
    hold(memory_bucket, machine=lease._machine(), pid=2**22 + 1)
    assert not goes_on(memory_bucket.uri, heard=time.time())


def test_a_bucket_without_a_lease_is_judged_by_its_silence(memory_bucket: MemoryBucket):
    assert goes_on(memory_bucket.uri, heard=time.time() - 1)
    assert not goes_on(memory_bucket.uri, heard=time.time() - SILENCE_IN_BUCKET_S - 1)
