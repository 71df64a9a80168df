"""Runs a script of the tests as ranks of torchrun, and reads the JSON that rank 0 wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def torchrun(
    script: str, arguments: list[str], *, target: Path, num_ranks: int = 2, timeout_s: float = 120
) -> dict[str, Any]:
    """Run a script to its end.

    Args:
        script: Below ``tests/``.
        arguments: Arguments of the script, the target among them.
        target: File that rank 0 writes.
        num_ranks: Number of processes.
        timeout_s: Timeout of the whole run [s].
    """
    # --standalone takes a free port.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / script), *arguments],
        check=False,
        timeout=timeout_s,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-20000:]
    return json.loads(target.read_text())
