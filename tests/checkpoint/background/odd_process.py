"""A process that writes checkpoints, and does so when a test wants it, or fails, or kills its rank.

A test names this module instead of that of the package; ``RAYTRAINER_TEST_SAVES`` is a JSON object with some of:
``gate``, a file that every order waits for; ``upload_gate``, one that uploads wait for; ``fails``, whether storage is
full; ``denies``, the object that a store does not take; ``kills``, at which moment the rank is killed, and ``step``, in
the save of which step; ``pid_file``, which gets the number of this process.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raytrainer.checkpoint import commit
from raytrainer.checkpoint.background import process, to_directory, written
from raytrainer.checkpoint.names import INCOMPLETE_NAME, MANIFEST_NAME
from raytrainer.checkpoint.remote import orders
from raytrainer.storage.store import ObjectStore

VARIABLE = "RAYTRAINER_TEST_SAVES"
NAME = "tests.checkpoint.background.odd_process"
MOMENTS = ("writing", "hashing", "before the manifest", "after the manifest", "after the rename")
IN_A_BUCKET = (
    "writing",
    "before room is made",
    "before a file is uploaded",
    "after a file is uploaded",
    "before the manifest is uploaded",
    "after the manifest is uploaded",
)
WAIT_S = 60


def kill_rank() -> None:
    """Kill the rank, and go on when it is dead, as far as this process gets."""
    parent = os.getppid()
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        time.sleep(0.001)


def wait_for(gate: Path) -> None:
    end = time.monotonic() + WAIT_S
    while not gate.exists():
        assert time.monotonic() < end, f"{gate} was never made"
        time.sleep(0.01)


def kill_around(module: Any, name: str, step: int, *, after: bool) -> None:
    real = getattr(module, name)

    def killing(path: Path, *args: Any, **kwargs: Any) -> Any:
        is_due = f"checkpoint-{step}." in str(path)
        if is_due and not after:
            kill_rank()
        result = real(path, *args, **kwargs)
        if is_due and after:
            kill_rank()
        return result

    setattr(module, name, killing)


def around_object(name: str, act: Callable[[], None], *, after: bool = False) -> None:
    """Act when an object is written, of whose name this is the end."""
    for method, position in (("put", 1), ("put_text", 0)):
        real = getattr(ObjectStore, method)

        def acting(self: Any, *args: Any, real: Any = real, position: int = position) -> None:
            is_due = args[position].endswith(name)
            if is_due and not after:
                act()
            real(self, *args)
            if is_due and after:
                act()

        setattr(ObjectStore, method, acting)


def kill_after_chunks(step: int) -> None:
    """Kill the rank when some parts of a file of a step are written."""
    real = written._chunks
    state = {"is_due": False, "count": 0}
    image = process.write_image

    def noted(file: Any, memory: Any) -> Any:
        state["is_due"] = f"checkpoint-{step}." in str(file.path)
        return (yield from image(file, memory))

    def chunks(*args: Any) -> Any:
        state["count"] += state["is_due"]
        if state["count"] == 5:
            kill_rank()
        return real(*args)

    process.write_image = noted
    written._chunks = chunks


def arm(options: dict[str, Any]) -> None:
    if "pid_file" in options:
        Path(options["pid_file"]).write_text(str(os.getpid()))
    if "gate" in options:
        real = process.Writer.write

        def write(self: process.Writer, order: Any) -> Any:
            wait_for(Path(options["gate"]))
            return (yield from real(self, order))

        process.Writer.write = write
    if "upload_gate" in options:
        upload = orders.upload

        def gated(*args: Any) -> None:
            wait_for(Path(options["upload_gate"]))
            upload(*args)

        orders.upload = gated
    if "denies" in options:

        def deny() -> None:
            raise PermissionError("Access Denied")

        around_object(options["denies"], deny)
    if options.get("fails"):

        def fail(*args: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        process.record_files = fail
    moment, step = options.get("kills"), options.get("step", 0)
    if moment == "writing":
        kill_after_chunks(step)
    elif moment == "hashing":
        kill_around(process, "record_files", step, after=False)
    elif moment == "before the manifest":
        kill_around(commit, "write_synced", step, after=False)
    elif moment == "after the manifest":
        kill_around(commit, "write_synced", step, after=True)
    elif moment == "after the rename":
        kill_around(to_directory, "publish", step, after=True)
    elif moment in IN_A_BUCKET:
        file = {
            "room is made": INCOMPLETE_NAME,
            "a file is uploaded": "optimizer.pt",
            "the manifest is uploaded": MANIFEST_NAME,
        }[moment.partition(" ")[2]]
        around_object(f"checkpoint-{step}/{file}", kill_rank, after=moment.startswith("after"))


if __name__ == "__main__":
    arm(json.loads(os.environ.get(VARIABLE, "{}")))
    process.main()
