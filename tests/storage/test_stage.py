"""Where a process stages files, and who deletes what a killed one left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raytrainer.errors import ConfigurationError
from raytrainer.storage.stage import discard_stage, stage_of, stage_root, sweep_stages, working_directory
from tests.test_layout import ROOT


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYTRAINER_STAGE_DIR", str(tmp_path / "stage"))
    return tmp_path / "stage"


def start(code: str) -> subprocess.Popen[str]:
    """A process that stages a file, says so, and then does something."""
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nfrom raytrainer.storage.stage import stage_of\n"
            "(stage_of('s3://b/run') / 'file').write_text('x')\nprint('staged', flush=True)\n" + code,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_each_uri_has_a_directory_of_its_own_and_keeps_it(root):
    assert stage_of("s3://b/run") == stage_of("s3://b/run/") == stage_of("s3://b/run?region=eu")
    assert stage_of("s3://b/run") != stage_of("s3://c/run")
    assert stage_of("s3://b/run").is_relative_to(root)
    assert working_directory("runs/x") == Path("runs/x")
    assert working_directory("s3://b/run") == stage_of("s3://b/run")


def test_it_is_private_to_the_user():
    assert stage_of("s3://b/run").parent.stat().st_mode & 0o077 == 0


def test_a_process_that_ends_leaves_nothing(root):
    process = start("raise SystemExit(1)")
    process.communicate(timeout=30)
    assert list(root.iterdir()) == []


def test_what_a_killed_process_left_is_deleted_and_that_of_a_living_one_is_not(root):
    killed, alive = start("sys.stdin.read()"), start("sys.stdin.read()")
    for process in (killed, alive):
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    assert len(list(root.rglob("file"))) == 2
    sweep_stages(root)
    assert len(list(root.rglob("file"))) == 1
    alive.communicate(timeout=30)
    assert list(root.iterdir()) == []


def test_a_stage_that_cannot_be_made_says_where_to_put_it(monkeypatch, tmp_path):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("RAYTRAINER_STAGE_DIR", str(tmp_path / "taken"))
    with pytest.raises(ConfigurationError, match="Set RAYTRAINER_STAGE_DIR to a directory on a disk"):
        stage_of("s3://b/run")
    assert stage_root() == tmp_path / "taken"


def test_it_can_be_deleted_before_the_process_ends_and_made_again(root):
    first = stage_of("s3://b/run")
    discard_stage()
    assert list(root.iterdir()) == []
    assert stage_of("s3://b/run") != first
