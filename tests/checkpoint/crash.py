"""A process that saves checkpoints and is killed by SIGKILL at chosen operations on the disk.

    python crash.py RUN_DIR WORLD_SIZE REPLACES [RUN_ID]

Copies the directory RUN_DIR/origin for each operation that a save makes, kills a child process at exactly that
operation (before it happens) while it saves into the copy, and prints one JSON line per kill: the copy and the
operation. The last line is of a child that was not killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from tests.checkpoint.disk import watch_disk
from tests.checkpoint.saving import save_small


def watch(kill_at: int, run_dir: Path) -> None:
    """Count disk operations, and die before operation ``kill_at``."""
    count = 0
    lock = threading.Lock()

    def operation(what: str, written: Path | None = None) -> None:
        nonlocal count
        with lock:
            if count == kill_at:
                Path(f"{run_dir}.died-at").write_text(what)
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    watch_disk(run_dir, operation)


def main() -> None:
    root, world_size, replaces = Path(sys.argv[1]), int(sys.argv[2]), bool(int(sys.argv[3]))
    run_id = sys.argv[4] if len(sys.argv) > 4 else "run"
    for kill_at in range(1000):
        run_dir = root / f"killed-{kill_at}"
        shutil.copytree(root / "origin", run_dir)
        child = os.fork()
        if child == 0:
            watch(kill_at, run_dir)
            save_small(run_dir, 20 if replaces else 30, world_size=world_size, run_id=run_id, attempt=1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        died_at = Path(f"{run_dir}.died-at")
        was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not was_killed and status != 0:
            raise SystemExit(f"the child ended with {status}")
        print(json.dumps([str(run_dir), died_at.read_text() if was_killed else None]), flush=True)
        if not was_killed:
            return


if __name__ == "__main__":
    main()
