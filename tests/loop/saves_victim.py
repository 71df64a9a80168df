"""Runs that save beside training and are killed by SIGKILL at chosen moments of a save.

    python saves_victim.py ROOT [bucket]

For each moment a child trains in a directory of ROOT until it is killed in the save of step 8; with the second argument
the directory is a bucket. Writes ROOT/killed.json: for each child the moment, its directory, and how it ended.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

import raytrainer
from raytrainer.checkpoint.background import writer
from raytrainer.checkpoint.background.arena import Arena
from raytrainer.checkpoint.background.pending import PendingSave
from tests.checkpoint.background import odd_process
from tests.parity.twins import make_trainer

STEP = 8
OPTIONS: dict[str, Any] = {
    "max_steps": 12,
    "save_strategy": "steps",
    "save_steps": 4,
    "async_save": True,
    "report_page": False,
}
STAGING = "staging"
MOMENTS = (STAGING, *odd_process.MOMENTS)
IN_A_BUCKET = (STAGING, *odd_process.IN_A_BUCKET)
WAIT_S = 30


def die_while_staging() -> None:
    """Die when some of the tensors are copied."""
    stage, take = PendingSave.stage, Arena.take
    taken: list[int] = []

    def counted(self: Arena, source: torch.Tensor) -> Any:
        taken.append(source.numel())
        if len(taken) == 15:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, source)

    def armed(self: PendingSave, write_parts: Any) -> int:
        if self.step == STEP:
            Arena.take = counted
        return stage(self, write_parts)

    PendingSave.stage = armed


def train(directory: Path, moment: str, scheme: str) -> None:
    torch.set_num_threads(1)
    options = {"kills": moment, "step": STEP, "pid_file": f"{directory}.pid"}
    os.environ[odd_process.VARIABLE] = json.dumps(options)
    writer.PROCESS = odd_process.NAME
    if moment == STAGING:
        die_while_staging()
    make_trainer(raytrainer, f"{scheme}{directory}", **OPTIONS).train()


def wait_for_end(pid: int) -> None:
    """Wait for a process that is nobody's child here."""
    end = time.monotonic() + WAIT_S
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, f"process {pid} outlives its rank"
        time.sleep(0.01)


def main() -> None:
    root = Path(sys.argv[1])
    has_buckets = sys.argv[2:] == ["bucket"]
    killed: list[tuple[str, str, int]] = []
    for name in ("torch._dynamo", "torch._inductor"):
        importlib.import_module(name)  # by the optimizer otherwise, in each child
    for moment in IN_A_BUCKET if has_buckets else MOMENTS:
        directory = root / moment.replace(" ", "-")
        child = os.fork()
        if child == 0:
            train(directory, moment, "local://" if has_buckets else "")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        wait_for_end(int(Path(f"{directory}.pid").read_text()))
        killed.append((moment, str(directory), os.waitstatus_to_exitcode(status)))
    (root / "killed.json").write_text(json.dumps(killed))


if __name__ == "__main__":
    main()
