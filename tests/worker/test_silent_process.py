from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from raytrainer.wire.messages import RankProcess
from raytrainer.worker import silent_process
from raytrainer.worker.silent_process import examine


@pytest.fixture
def sleeper() -> Generator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def rank_of(process: subprocess.Popen[bytes], log: Path | None = None) -> RankProcess:
    return RankProcess(
        rank=1,
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
        host="host",
        node_id="n",
        log_file=None if log is None else str(log),
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


@pytest.mark.timeout(20)
def test_a_stopped_process_is_told_and_ended_only_if_asked(sleeper: subprocess.Popen[bytes]) -> None:
    rank = rank_of(sleeper)
    stop(sleeper)
    text = examine(rank)
    assert text.startswith(f"{sleeper.pid} on host is stopped, by SIGSTOP or a debugger")
    assert sleeper.poll() is None
    examine(rank, ends=True)
    assert sleeper.wait() == -signal.SIGKILL
    assert examine(rank) == f"{sleeper.pid} on host has ended"


@pytest.mark.timeout(20)
def test_stacks_that_py_spy_reads_go_to_the_log(
    sleeper: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "py-spy"
    program.write_text("#!/bin/sh\necho its stack: $@\n")
    program.chmod(0o755)
    monkeypatch.setattr(silent_process.sys, "executable", str(tmp_path / "python"))
    log = tmp_path / "rank-1.log"
    stop(sleeper)
    assert "py-spy" not in examine(rank_of(sleeper, log))
    assert f"its stack: dump --nonblocking --pid {sleeper.pid}" in log.read_text()
