"""Two gloo ranks under torchrun, uneven lengths and accumulation: the same numbers as ``transformers.Trainer``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def train(library: str, directory: Path) -> dict[str, Any]:
    target = directory / f"{library}.json"
    script = str(ROOT / "tests" / "parity" / "rank_script.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    subprocess.run(
        [*command, library, str(target)],
        check=True,
        timeout=200,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    return json.loads(target.read_text())


@pytest.mark.distributed
def test_two_ranks_train_like_transformers(tmp_path: Path) -> None:
    theirs, ours = train("transformers", tmp_path), train("raytrainer", tmp_path)
    assert ours["is_ddp"]
    assert theirs["is_ddp"]
    assert ours["world"] == theirs["world"] == 2
    assert len(ours["rows"]) == len(theirs["rows"]) > 0
    for mine, other in zip(ours["rows"], theirs["rows"], strict=True):
        assert mine == pytest.approx(other, abs=1e-6)
    for name, value in theirs["weights"].items():
        assert np.allclose(ours["weights"][name], value, rtol=0, atol=1e-6), name
