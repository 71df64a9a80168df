"""The raylet of the script's own machine is killed, without which Ray ends the script with exit code 1 and no word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raytrainer.checkpoint.tensor_files import read_tensors
from tests.ray_cluster import ENVIRONMENT, ROOT

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(240)]


def run(directory: Path, step: int) -> str:
    """What a script prints whose raylet is killed; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.raylet_run", str(directory), str(step)],
        env={**os.environ, **ENVIRONMENT},
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_in_a_step_the_call_says_so_and_the_next_one_goes_on_with_another_ray(tmp_path: Path) -> None:
    printed = run(tmp_path / "run", 6)
    assert "FAILED Ray on this machine has ended: its raylet" in printed
    assert f"Last committed checkpoint: {tmp_path / 'run' / 'checkpoint-4'}" in printed
    assert (tmp_path / "run.done").read_text() == "12"


def test_after_training_the_next_call_takes_the_weights_from_the_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "run", 0)
    assert (tmp_path / "run.done").read_text() == "12"
    saved = read_tensors(tmp_path / "run" / "model.safetensors")
    trained = read_tensors(tmp_path / "run" / "checkpoint-12" / "model.safetensors")
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], value) for name, value in trained.items())
