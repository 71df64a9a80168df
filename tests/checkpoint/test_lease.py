"""One run at a time writes checkpoints into a directory, and a run that died loses it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import raytrainer
from raytrainer.checkpoint import lease
from raytrainer.errors import CheckpointError, ConfigurationError
from tests.parity.twins import make_trainer

HOLD = """
import pathlib, sys, time
from raytrainer.checkpoint.lease import held
with held(pathlib.Path(sys.argv[1]), "other", report=print):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a directory until its input ends."""
    command = [sys.executable, "-c", HOLD, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PATIENCE_S", 0.1)


def put_elsewhere(directory: Path) -> None:
    """Make a lease look as if it had been taken on another machine."""
    path = directory / lease.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "node-7/boot/1"}))


def take(directory: Path, run_id: str = "mine") -> list[str]:
    said: list[str] = []
    with lease.held(directory, run_id, report=said.append):
        assert lease._read(directory / lease.NAME)[0].run_id == run_id
    return said


def test_a_directory_that_a_living_run_holds_is_refused_and_the_error_names_the_process(
    tmp_path: Path,
) -> None:
    with (
        other_process(tmp_path) as other,
        pytest.raises(ConfigurationError, match=rf"process {other.pid} on "),
    ):
        take(tmp_path)


def test_a_driver_refuses_it_before_anything_starts(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, max_steps=1, save_strategy="steps")
    with other_process(tmp_path), pytest.raises(ConfigurationError, match="in use by another run"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_run_that_saves_nothing_may_share_the_directory(tmp_path: Path) -> None:
    with other_process(tmp_path):
        make_trainer(raytrainer, tmp_path, max_steps=1, save_strategy="no").train()


def test_a_run_leaves_no_lease_behind(tmp_path: Path) -> None:
    make_trainer(raytrainer, tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    assert (tmp_path / "checkpoint-1").is_dir()
    assert not (tmp_path / lease.NAME).exists()


def test_a_directory_that_was_removed_and_made_anew_is_still_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.02)
    run_dir = tmp_path / "run"
    with lease.held(run_dir, "other", report=pytest.fail):
        run_dir.rename(tmp_path / "removed")
        run_dir.mkdir()
        deadline = time.monotonic() + 20
        while not (run_dir / lease.NAME).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(ConfigurationError, match="is in use by another run"):
            take(run_dir)
    assert not (run_dir / lease.NAME).exists()


def test_a_run_that_fails_leaves_no_lease_behind(tmp_path: Path) -> None:
    class Fails(raytrainer.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            assert (tmp_path / lease.NAME).exists()
            raise RuntimeError("on purpose")

    trainer = make_trainer(raytrainer, tmp_path, max_steps=1, save_strategy="steps")
    trainer.add_callback(Fails())
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer.train()
    assert not (tmp_path / lease.NAME).exists()


def test_a_lease_that_cannot_be_given_back_hides_no_error_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "unlink", read_only)
    with (
        pytest.raises(CheckpointError, match="checkpoint-2"),
        lease.held(tmp_path, "mine", report=pytest.fail),
    ):
        raise CheckpointError("checkpoint-2 could not be written")
    assert "Read-only file system" in caplog.text


def test_a_process_that_was_killed_loses_the_directory_at_once(tmp_path: Path) -> None:
    with other_process(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
        assert take(tmp_path) == []


def test_a_run_that_is_about_to_end_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PATIENCE_S", 30)
    with other_process(tmp_path) as other:
        said: list[str] = []

        def report(text: str) -> None:
            said.append(text)
            assert other.stdin is not None
            other.stdin.close()  # which ends it

        with lease.held(tmp_path, "mine", report=report):
            assert other.wait(30) == 0
    assert len(said) == 1
    assert f"process {other.pid}" in said[0]


def test_a_process_that_got_the_number_of_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    with lease.held(tmp_path, "other", report=pytest.fail):
        path = tmp_path / lease.NAME
        path.write_text(json.dumps(json.loads(path.read_text()) | {"started": 1.0}))
        assert take(tmp_path) == []


def test_a_later_attempt_of_a_run_takes_over_from_the_earlier_one(tmp_path: Path) -> None:
    with lease.held(tmp_path, "mine", report=pytest.fail):
        assert take(tmp_path, "mine") == []


def test_a_run_on_another_machine_that_is_touched_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    with lease.held(tmp_path, "other", report=pytest.fail):
        put_elsewhere(tmp_path)
        with pytest.raises(ConfigurationError, match="on node-7, since"):
            take(tmp_path)


def test_a_run_on_another_machine_that_is_about_to_end_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    monkeypatch.setattr(lease, "PATIENCE_S", 30)
    monkeypatch.setattr(lease, "STALE_S", 5)
    seen: set[float] = set()
    read = lease._read

    def read_and_release(path: Path) -> tuple[lease.Holder | None, float | None]:
        found = read(path)
        if found[0] is not None and found[0].run_id == "other":
            seen.add(found[1] or 0.0)
            if len(seen) == 3:
                path.unlink()
        return found

    with lease.held(tmp_path, "other", report=pytest.fail):
        put_elsewhere(tmp_path)
        monkeypatch.setattr(lease, "_read", read_and_release)
        assert len(take(tmp_path)) == 1
    assert len(seen) == 3, "it lived while it was waited for"


def test_a_run_on_another_machine_that_is_silent_is_waited_for_and_then_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_S", 0.3)
    with other_process(tmp_path) as other:
        other.kill()
    put_elsewhere(tmp_path)
    waits, taken = take(tmp_path)
    assert "for a sign of life" in waits
    assert "taken over" in taken
    assert "node-7" in waits


def test_a_lease_that_cannot_be_read_is_waited_for_like_that_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_S", 0.3)
    (tmp_path / lease.NAME).write_text("{")
    assert len(take(tmp_path)) == 2


def test_of_several_runs_that_find_a_dead_ones_lease_one_gets_the_directory(tmp_path: Path) -> None:
    dead = lease.Holder(run_id="dead", machine=lease._machine(), pid=os.getpid(), started=1.0, since="")
    (tmp_path / lease.NAME).write_text(json.dumps(dataclasses.asdict(dead)))
    begin, all_tried = threading.Barrier(8), threading.Barrier(8)
    won: list[int] = []

    def run(number: int) -> None:
        begin.wait()
        try:
            with lease.held(tmp_path, f"run {number}", report=lambda _: None):
                won.append(number)
                all_tried.wait()
        except ConfigurationError:
            all_tried.wait()

    # The winner holds it until all others have been refused.
    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 1
    assert [path.name for path in tmp_path.iterdir()] == []
