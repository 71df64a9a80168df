"""``raytrainer runs`` lists what is below a directory: finished, killed and running runs, at 80 columns."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from raytrainer.checkpoint.lease import held
from raytrainer.cli.main import main
from tests.buckets import MemoryBucket
from tests.report.runs import WrittenRun, two_deaths


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    two_deaths(tmp_path / "finished", 100)
    run = WrittenRun(tmp_path / "deep" / "killed", 50, began=time.time() - 100)
    run.start(0)
    run.steps(0, 20)
    return tmp_path


def test_the_run_that_was_heard_of_last_comes_first(directory: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", str(directory)]) == 0
    head, killed, finished = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "step", "loss", "best", "saved", "last", "heard"]
    assert killed.split()[:4] == ["deep/killed", "killed", "20/50", "0.05"] or "0.05" in killed
    assert finished.split()[:3] == ["finished", "finished", "100/100"]
    assert max(map(len, (head, killed, finished))) <= 100


def test_a_run_that_lives_is_running(directory: Path, capsys: pytest.CaptureFixture[str]):
    with held(directory / "deep" / "killed", "one", report=print):
        assert main(["runs", str(directory), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["state"], first["alive"], first["step"]) == ("running", True, 20)
    assert (second["state"], second["alive"], second["restarts"]) == ("finished", False, 2)
    assert second["last_checkpoint"] == 50


def test_runs_in_a_bucket_are_found(
    tmp_path: Path, memory_bucket: MemoryBucket, capsys: pytest.CaptureFixture[str]
):
    began = time.time() - 10
    two_deaths(tmp_path / "finished", 100)
    run = WrittenRun(tmp_path / "lives", 50, began=began)
    run.start(0)
    run.steps(0, 20)
    for place in ("finished", "lives"):
        for kind in ("metrics", "events"):
            content = (tmp_path / place / f"{kind}.jsonl").read_bytes()
            memory_bucket.write(f"team/{place}/run-records/{kind}-1a2b.jsonl", content)
    memory_bucket.write("team/finished/checkpoint-100/trainer_state.json", b"{}")
    memory_bucket.write("team/notes/x.txt", b"no run")
    assert main(["runs", memory_bucket.uri, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["directory"], first["state"]) == (f"{memory_bucket.uri}/team/lives", "running")
    assert (second["state"], second["last_checkpoint"]) == ("finished", 100)
    assert main(["runs", memory_bucket.uri]) == 0
    assert "team/finished" in capsys.readouterr().out
    assert main(["watch", f"{memory_bucket.uri}/team/finished"]) == 0
    assert "checkpoint-50 committed" in capsys.readouterr().out


def test_a_directory_without_runs_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", str(tmp_path)]) == 1
    assert "There is no run in" in capsys.readouterr().out
    assert main(["runs", str(tmp_path / "none")]) == 2
