"""The end of a process whose workers still wait for a task: nothing of it calls Ray when Ray has ended.

Ray ends a process with exit status 1 when it does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ray_cluster import ENVIRONMENT, ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


def end_of_process(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.driver.end_of_process", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **ENVIRONMENT},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answer: 7" in done.stdout
    return done.stdout


def test_no_thread_outlives_a_lean_ray_of_the_script_which_only_this_machine_reaches(tmp_path: Path) -> None:
    printed = end_of_process(str(tmp_path))
    assert "threads: []" in printed
    assert "unused: []" in printed, "neither a dashboard nor a monitor of an autoscaler"
    assert "listens: ['127.0.0.1', '::ffff:127.0.0.1']" in printed


@pytest.mark.usefixtures("ray_cluster")
def test_no_thread_outlives_a_ray_that_was_joined(tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    assert "threads: []" in end_of_process(str(tmp_path), address)
