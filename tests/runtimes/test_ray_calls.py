"""Ray's calls do what they say where Ray has ended."""

from __future__ import annotations

import subprocess
import sys

import pytest

KILLS = """
import ray
from raytrainer.runtimes import ray_calls

def start(*args, **options):
    raise SystemExit("Ray was started")

ray._private.auto_init_hook.auto_init_ray = start
ray_calls.kill(object())
"""


@pytest.mark.timeout(60)
def test_ending_an_actor_starts_no_ray() -> None:
    done = subprocess.run([sys.executable, "-c", KILLS], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
