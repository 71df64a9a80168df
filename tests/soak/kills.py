"""Kills a run at random moments while its saves are written beside it: ``python -m tests.soak.kills [--kills 40]``.

One process trains at a time, as fast as it can, and is killed by SIGKILL after a time that is drawn: in a step, while a
save is staged, written, hashed or committed. It is started again and goes on from its newest checkpoint. After a few
kills it may end, and its losses and weights are compared, bit by bit, with those of a run whose saves were written in
the loop and that nobody killed. Exits with 1 if one differs, or if a process outlives its rank.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import raytrainer
from raytrainer.checkpoint.names import list_checkpoints, list_leftovers
from raytrainer.checkpoint.verify import verify_checkpoint
from tests.parity.twins import make_trainer, rows
from tests.soak.run import digest

OPTIONS: dict[str, Any] = {
    "max_steps": 60,
    "save_strategy": "steps",
    "save_steps": 3,
    "save_total_limit": 2,
    "report_page": False,
}
KILLS_A_RUN = 4


def train(directory: Path, *, beside: bool) -> None:
    """The child: train to the end, and say what came of it."""
    torch.set_num_threads(1)
    with (
        (directory / "log").open("a") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        trainer = make_trainer(raytrainer, directory / "run", async_save=beside, **OPTIONS)
        trainer.train(resume_from_checkpoint="auto")
    result = {"rows": [repr(row) for row in rows(trainer)], "weights": digest(trainer)}
    (directory / "result.json").write_text(json.dumps(result))


def start(directory: Path, *, beside: bool) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(directory, beside=beside)
            status = 0
        finally:
            os._exit(status)
    return child


def finished(directory: Path, *, beside: bool) -> Any:
    """The result of a run that nobody kills any more."""
    _, status = os.waitpid(start(directory, beside=beside), 0)
    if status != 0:
        sys.exit(f"a run failed; see {directory}/log")
    return json.loads((directory / "result.json").read_text())


def killed(directory: Path, longest_s: float, draw: random.Random) -> str:
    """Kill a run at a moment that is drawn; return what the disk says about it, or nothing if it had ended."""
    child = start(directory, beside=True)
    time.sleep(draw.uniform(0.0, longest_s))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return ""
    for path in list_checkpoints(directory / "run"):
        verify_checkpoint(path)
    if not (directory / "run").exists() or not list_checkpoints(directory / "run"):
        return "before the first commit"
    return "while a save was pending" if list_leftovers(directory / "run") else "between two saves"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(2), "big")
    draw, root = random.Random(seed), Path(tempfile.mkdtemp(prefix="kills-"))
    quiet = root / "quiet"
    quiet.mkdir()
    began = time.monotonic()
    expected = finished(quiet, beside=False)
    longest_s = time.monotonic() - began
    moments: Counter[str] = Counter()
    differ = 0
    while moments.total() < options.kills:
        directory = root / f"run-{moments.total()}"
        directory.mkdir()
        here = [killed(directory, longest_s, draw) for _ in range(KILLS_A_RUN)]
        moments.update(moment for moment in here if moment)
        found = finished(directory, beside=True)
        is_same = found == expected
        differ += not is_same
        print(
            f"{', '.join(moment or 'at the end' for moment in here)}: {'the same' if is_same else 'OTHER'}",
            flush=True,
        )
        if is_same:
            shutil.rmtree(directory)
    print(
        f"{moments.total()} kills, seed {seed}: "
        + ", ".join(f"{n} {moment}" for moment, n in moments.items())
    )
    if differ:
        raise SystemExit(f"{differ} runs were not the same; see {root}")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
