from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raytrainer.wire.pickling import Shipped

ROOT = Path(__file__).parents[2]
READ = """
import pickle, sys
from raytrainer.wire.spec import receive_on_worker
value = receive_on_worker(pickle.load(sys.stdin.buffer), "copies")
print(eval(sys.argv[1]))
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Callable[[Shipped, str], str]:
    """Receive a value in a new process, which finds raytrainer and what is installed, and evaluate an expression."""

    def read(shipped: Shipped, expression: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", READ, expression],
            input=pickle.dumps(shipped),
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        return done.stdout.decode().strip()

    return read
