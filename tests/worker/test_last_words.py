"""A worker that is done prints nothing more, also what does not come from Python."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, sys
from raytrainer.worker.last_words import end_output
print("before")
sys.stderr.write("before\\n")
end_output()
print("after", flush=True)
os.write(1, b"after"), os.write(2, b"after")
sys.exit("after")
"""


def test_only_what_was_printed_before_is_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.stdout, done.stderr, done.returncode) == ("before\n", "before\n", 1)
