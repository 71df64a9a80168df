"""Ctrl-C as a terminal sends it: to every process of the group."""

from __future__ import annotations

import functools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.ray_cluster import ENVIRONMENT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

SCRIPT = """
import json, sys, time
from pathlib import Path
from raytrainer.driver.worker_group import WorkerGroup
from tests.driver.toy import TOY, ToyTrainer, toy_args

def say(**facts):
    print("FACT " + json.dumps(facts), flush=True)

def on_event(event):
    kind = type(event).__name__
    if kind == "StepDone" and event.step % 10 == 3:
        say(step=event.step)
    if kind == "Note":
        say(note=event.text)

if __name__ == "__main__":
    run = Path(sys.argv[1])
    trainer = ToyTrainer(directory=str(run))
    group = WorkerGroup(trainer, toy_args(run), on_event, open_session=TOY)
    group.start()
    say(result=group.call("train", (10_000,), {"fail": "slow", "every": 1000}))
    try:
        # It does not stop at the first Ctrl-C, so that the second always comes in time.
        group.call("train", (10_000,), {"fail": "deaf", "every": 1000})
    except KeyboardInterrupt:
        say(interrupted=True)
    time.sleep(0.1)
    say(end=True)
"""


class Script:
    """A training script, as seen from the terminal."""

    def __init__(self, path: Path, arguments: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(path), *arguments],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A shell that runs the tests in the background lets them ignore Ctrl-C, and their children inherit that.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        self.lines: list[str] = []
        self.facts: queue.Queue[dict] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("FACT "):
                self.facts.put(json.loads(line[5:]))

    def wait_for(self, key: str, timeout_s: float = 60.0) -> object:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fact = self.facts.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"{key} did not come:\n{''.join(self.lines)}")
            if key in fact:
                return fact[key]

    def press_ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)


def processes_that_name(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(command[:200])
    return found


def test_first_ctrl_c_saves_and_stops_the_second_stops_now_and_nothing_of_ray_is_left(
    tmp_path, ray_directory
):
    directory = ray_directory / "own"
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    script = Script(path, [str(tmp_path)], ENVIRONMENT | {"RAY_TMPDIR": str(directory)})
    try:
        script.wait_for("step")
        script.press_ctrl_c()
        assert script.wait_for("note") == "stopping after a checkpoint; press Ctrl-C again to stop now"
        result = script.wait_for("result", 10)
        assert result["stopped"]
        assert int((tmp_path / "checkpoint").read_text()) == result["step"], "it saved before it stopped"

        script.wait_for("step", 10)
        script.press_ctrl_c()
        script.wait_for("note", 10)
        pressed = time.monotonic()
        script.press_ctrl_c()
        script.wait_for("interrupted", 3)
        script.wait_for("end", 3)
        assert script.process.wait(15) == 0
        assert time.monotonic() - pressed < 15
        deadline = time.monotonic() + 10
        while processes_that_name(str(directory)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert processes_that_name(str(directory)) == []
    finally:
        script.process.kill()
