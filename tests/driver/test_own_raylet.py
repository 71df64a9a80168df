"""The raylet of this machine is found by its socket; a small process listens in its place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raytrainer.driver import own_raylet as module
from raytrainer.driver.own_raylet import OwnRaylet, is_gone, own_raylet

LISTEN = """
import socket, sys
found = socket.socket(socket.AF_UNIX)
found.bind(sys.argv[1])
found.listen()
print("ready", flush=True)
while True:
    found.accept()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who is behind a socket")


@pytest.fixture
def raylet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    path = tmp_path / "raylet"
    monkeypatch.setattr(module, "_socket", lambda: str(path))
    with subprocess.Popen(
        [sys.executable, "-S", "-c", LISTEN, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_raylet_that_was_killed_is_seen_before_its_parent_has_waited_for_it(
    raylet: subprocess.Popen[str],
) -> None:
    found = own_raylet()
    assert not found.has_ended
    assert not is_gone()
    raylet.kill()
    while not is_gone():
        assert raylet.returncode is None, "it is a zombie, as one that Ray's own driver started"
    assert found.has_ended
    raylet.wait()
    assert found.has_ended
    text = str(found.lost("/data/run/checkpoint-8"))
    assert f"its raylet (pid {raylet.pid}) was killed or crashed" in text
    assert "Last committed checkpoint: /data/run/checkpoint-8." in text
    assert "No checkpoint was committed." in str(found.lost(None))


def test_a_process_without_a_raylet_misses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_socket", lambda: None)
    assert not own_raylet().has_ended
    assert not is_gone()
    assert not OwnRaylet(0).has_ended
