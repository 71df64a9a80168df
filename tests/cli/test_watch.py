"""``raytrainer watch`` shows of a run's files what the driver shows of its events."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from raytrainer.cli.main import main
from raytrainer.cli.watch import SILENCE_S, Follower
from raytrainer.telemetry.events import Logged, Note
from tests.buckets import MemoryBucket
from tests.report.runs import WrittenRun, two_deaths


def test_a_run_that_has_ended_is_shown_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    two_deaths(tmp_path, 10)
    assert main(["watch", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "10/10  loss=0.1" in shown.out
    assert "restarted (attempt 3)" in shown.out
    assert "checkpoint-5 committed" in shown.out
    assert "finished" in shown.out
    assert "A node was lost." in shown.err


def test_an_evaluation_has_the_position_of_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = WrittenRun(tmp_path, 10)
    run.start(0)
    run.steps(0, 4)
    run.rank.handle(Logged(step=4, max_steps=10, logs={"eval_loss": 0.25}))
    assert main(["watch", str(tmp_path), "--once"]) == 1
    shown = capsys.readouterr().out
    assert " 4/10  eval_loss=0.2500" in shown
    assert shown.endswith(
        "The run was killed: nothing holds its directory any more, and it has written no end.\n"
    )


def test_a_program_gets_the_lines_of_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    two_deaths(tmp_path, 10)
    assert main(["watch", str(tmp_path), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert {"start", "log", "save", "restart", "end"} <= {line["kind"] for line in lines}


def test_a_run_that_was_killed_long_ago_is_over_at_once_and_a_program_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    WrittenRun(tmp_path, 10).start(0)
    assert main(["watch", str(tmp_path), "--json"]) == 1
    shown = capsys.readouterr()
    assert [json.loads(line)["kind"] for line in shown.out.splitlines()] == ["start"]
    assert "The run was killed" in shown.err


def test_a_killed_run_in_a_bucket_is_told_as_killed(
    tmp_path: Path, memory_bucket: MemoryBucket, capsys: pytest.CaptureFixture[str]
):
    WrittenRun(tmp_path, 10).start(0)
    memory_bucket.write("run-records/events-1a.jsonl", (tmp_path / "events.jsonl").read_bytes())
    assert main(["watch", memory_bucket.uri, "--once"]) == 1
    assert "The run was killed" in capsys.readouterr().out


def test_checkpoints_without_a_record_are_nothing_to_watch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "checkpoint-1").mkdir()
    assert main(["watch", str(tmp_path)]) == 2
    assert "no record of its run" in capsys.readouterr().err


def test_a_follower_waits_for_workers_that_are_started_again(tmp_path: Path):
    run = WrittenRun(tmp_path, 10, began=time.time() - 2 * SILENCE_S)
    run.start(0)
    follower = Follower(str(tmp_path))
    assert list(follower.news())
    assert follower.is_over
    run.driver.handle(Note(text="A worker died.", level="warning", kind="restart"))
    assert list(follower.news())
    assert not follower.is_over


def test_a_follower_gets_each_line_once_as_they_come(tmp_path: Path):
    run = WrittenRun(tmp_path, 10, began=time.time())
    run.start(0)
    follower = Follower(str(tmp_path))
    assert [line["kind"] for line in follower.news()] == ["start"]
    run.steps(0, 2)
    assert [(line["kind"], line["step"]) for line in follower.news() if line["kind"] == "log"] == [
        ("log", 1),
        ("log", 2),
    ]
    assert not follower.is_over
    run.end()
    assert [line["kind"] for line in follower.news()] == ["end"]
    assert follower.is_over
