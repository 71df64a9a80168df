"""Starts ``rank.py`` under torchrun and reads what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

OF_THE_RUN = ("resume", "num_samples", "model", "classifies")
ROOT = Path(__file__).parents[2]


def launch(num_ranks: int, directory: Path, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Train runs, one after the other, in one group of processes.

    Args:
        num_ranks: Processes.
        directory: Each run's ``output_dir`` is in it, under the run's name.
        runs: Options by name; ``resume`` is the checkpoint to begin from, ``num_samples`` the size of the dataset,
            ``model`` a directory, ``classifies`` takes a classifier.
    """
    listed = [
        {
            "name": name,
            "output_dir": str(directory / name),
            "resume": options.get("resume"),
            # By default whole steps only: what fills up the last one depends on the number of ranks.
            "num_samples": options.get("num_samples", 48),
            "model": options.get("model"),
            "classifies": options.get("classifies", False),
            "options": {key: value for key, value in options.items() if key not in OF_THE_RUN},
        }
        for name, options in runs.items()
    ]
    target = directory / f"results-{num_ranks}.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "sharding" / "rank.py"), str(target), json.dumps(listed)],
        check=False,
        timeout=240,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(target.read_text())
