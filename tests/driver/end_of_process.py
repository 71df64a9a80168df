"""Runs a task on a worker and ends: ``python -m tests.driver.end_of_process DIR [ADDRESS]``.

It prints where its processes listen, and which threads of the trainer are left when Ray has ended.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import time
from pathlib import Path

import psutil


def print_threads() -> None:
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("raytrainer")]
    print(f"threads: {left}", flush=True)


def addresses() -> set[str]:
    """Where this process and all that it started can be reached."""
    mine = psutil.Process()
    sockets = [one for process in (mine, *mine.children(recursive=True)) for one in process.net_connections()]
    return {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}


def unused() -> list[str]:
    """Processes of Ray that a run does not need."""
    commands: list[str] = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # It has just ended.
            commands.append(" ".join(process.cmdline()))
    return [name for name in ("dashboard.py", "monitor.py --logs-dir") for each in commands if name in each]


def main(directory: Path, address: str | None = None) -> object:
    from raytrainer.driver.worker_group import WorkerGroup
    from raytrainer.runtimes import ray_calls
    from tests.driver.toy import TOY, ToyTrainer, toy_args

    trainer = ToyTrainer(str(directory))
    args = toy_args(directory, num_workers=1, ray_address=address)
    group = WorkerGroup(trainer, args, print, open_session=TOY)
    group.start()
    print("answer:", group.call("echo", (7,)), flush=True)
    print("listens:", sorted(addresses()), flush=True)
    print("unused:", unused(), flush=True)
    kill = ray_calls.kill

    def kill_slowly(actor: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(1)  # as on a machine that has other things to do
        kill(actor)

    ray_calls.kill = kill_slowly
    return trainer  # a group ends with its trainer


if __name__ == "__main__":
    # Handlers run in reverse order, so this one is the last: Ray registers its own when it is imported.
    atexit.register(print_threads)
    trainer = main(Path(sys.argv[1]), *sys.argv[2:])
