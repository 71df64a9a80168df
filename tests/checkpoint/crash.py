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

from tests.checkpoint.saving import save_small

WATCHED = ("fsync", "rename", "mkdir", "rmdir", "unlink")


def watch(kill_at: int, run_dir: Path) -> list[str]:
    """Count disk operations, and die before operation ``kill_at``."""
    seen: list[str] = []
    lock = threading.Lock()

    def operation(what: str) -> None:
        with lock:
            if len(seen) == kill_at:
                Path(f"{run_dir}.died-at").write_text(what)
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append(what)

    for name in WATCHED:
        real = getattr(os, name)

        def watched(*args, real=real, name=name, **kwargs):
            operation(f"{name} {Path(str(args[0])).name if name != 'fsync' else ''}".strip())
            return real(*args, **kwargs)

        setattr(os, name, watched)

    def audit(event, args):
        # files that are opened for writing: their content appears after this
        if (
            event == "open"
            and isinstance(args[0], str)
            and f"{run_dir}/" in args[0]
            and "w" in str(args[1] or "")
        ):
            operation(f"open {Path(args[0]).name}")

    sys.addaudithook(audit)
    return seen


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
