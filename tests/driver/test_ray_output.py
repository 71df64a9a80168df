"""How lines look that Ray brings to the driver's terminal."""

from __future__ import annotations

import io

import pytest
import ray._private.worker as ray_worker

from raytrainer.driver import ray_output
from raytrainer.driver.ray_deaths import KILLED
from raytrainer.driver.ray_output import plain, shortened, tidy_ray_output

DEATH = (
    "A worker died or was killed while executing a task by an unexpected system error. To troubleshoot the problem, "
    "check the logs for the dead worker. Lease ID: 02 Worker ID: d6 Node ID: 23 Worker IP address: 127.0.0.1 Worker "
    "port: 37791 Worker PID: 10601 Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with "
    "a connection error code 2. End of file. Some common causes include: (1) the process was killed by the OOM "
    "killer due to high memory usage, (2) ray stop --force was called."
)
SHORT = f"A worker died (PID 10601): {KILLED}"


@pytest.fixture
def printing(monkeypatch: pytest.MonkeyPatch):
    original = getattr(ray_worker.print_worker_logs, "__wrapped__", ray_worker.print_worker_logs)
    monkeypatch.setattr(ray_worker, "print_worker_logs", original)
    for name in ("NO_COLOR", "FORCE_COLOR", "RAY_COLOR_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    tidy_ray_output()
    assert ray_worker.print_worker_logs is not original
    return ray_worker.print_worker_logs


def test_a_death_is_told_in_one_sentence_and_other_texts_stay():
    assert shortened(DEATH) == SHORT
    assert shortened("The node is full.") == "The node is full."


def test_the_death_of_a_node_is_told_in_one_line():
    text = (
        "The node with node id: 7aa86eceeed881bec0ec03b5bd3cf18ec8f7c895580e97532f5881ea and address: 10.0.0.2 and "
        "node name: 10.0.0.2 has been marked dead because the detector has missed too many heartbeats from it. This "
        "can happen when a \t(1) raylet crashes unexpectedly (OOM, etc.) \n\t(2) raylet has lagging heartbeats due to "
        "slow network or busy workload."
    )
    assert shortened(text) == (
        "Node 10.0.0.2 (7aa86e) is lost: Ray hears nothing from it any more. What ran there ended with it."
    )


def test_the_colors_of_who_printed_stay():
    assert plain("\x1b[36m(Worker pid=7)\x1b[0m \x1b[31mred\x1b[0m") == "(Worker pid=7) \x1b[31mred\x1b[0m"
    assert plain("a\x1b[32m [repeated 2x across cluster]\x1b[0m") == "a [repeated 2x across cluster]"


def test_a_file_gets_rays_lines_without_its_colors(printing):
    file = io.StringIO()
    printing({"pid": 7, "actor_name": "Worker", "lines": ["hello"]}, file)
    printing({"pid": "raylet", "lines": [DEATH]}, file)
    assert file.getvalue() == f"(Worker pid=7) hello\n(raylet) {SHORT}\n"


def test_a_terminal_gets_them_with_colors(printing, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    printing({"pid": 7, "actor_name": "Worker", "lines": ["hello"]}, file)
    assert file.getvalue() == "\x1b[36m(Worker pid=7)\x1b[0m hello\n"


def test_it_is_wrapped_once(printing):
    tidy_ray_output()
    assert ray_worker.print_worker_logs is printing


def test_when_this_process_ends_crashes_of_those_that_end_with_it_are_not_shown(printing, monkeypatch):
    monkeypatch.setattr(ray_output, "_last_words", ray_output._LastWords())
    crash = [
        "[2026 C 7 7] task_receiver.cc:136: You have likely discovered a bug in Ray.",
        "*** StackTrace ***",
    ]
    file = io.StringIO()
    printing({"pid": 7, "actor_name": "Worker", "lines": crash}, file)
    assert "StackTrace" in file.getvalue(), "a crash during a run is news"
    ray_output.drop_crashes()
    file = io.StringIO()
    printing({"pid": 7, "actor_name": "Worker", "lines": ["the user's last line", *crash]}, file)
    printing({"pid": 7, "actor_name": "Worker", "lines": ["/lib/libc.so.6(+0x2a) frame"]}, file)
    printing({"pid": "raylet", "lines": [DEATH]}, file)
    printing({"pid": 8, "actor_name": "Worker", "lines": ["hello"]}, file)
    assert file.getvalue() == "(Worker pid=7) the user's last line\n(Worker pid=8) hello\n"
