"""Kills a run at random moments while its saves are written beside it.

    python -m tests.soak.kills [--kills 40] [--seed N] [--bucket]

One process trains at a time, as fast as it can, and is killed by SIGKILL after a time that is drawn, half of the times
counted from the beginning of a save: in a step, while a save is staged, written, hashed, uploaded or committed. It is
started again and goes on from its newest checkpoint. After a few kills it may end, and its losses and weights are
compared, bit by bit, with those of a run whose saves were written in the loop and that nobody killed. With ``--bucket``
the run saves into a bucket, which is a directory that is opened by its URI. Exits with 1 if one differs.
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
from raytrainer.checkpoint.manifest import MANIFEST_NAME
from raytrainer.checkpoint.names import INCOMPLETE_NAME, list_leftovers
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
IN_A_SAVE_S = 0.1
"""About how long a save takes [s]."""
LOOK_S = 0.0005
"""How often it is looked whether one began [s]."""


def train(directory: Path, location: str, *, beside: bool) -> None:
    """The child: train to the end, and say what came of it."""
    os.environ["RAYTRAINER_STAGE_DIR"] = str(directory / "stage")
    torch.set_num_threads(1)
    with (
        (directory / "log").open("a") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        trainer = make_trainer(raytrainer, location, async_save=beside, **OPTIONS)
        trainer.train(resume_from_checkpoint="auto")
    result = {"rows": [repr(row) for row in rows(trainer)], "weights": digest(trainer)}
    (directory / "result.json").write_text(json.dumps(result))


def start(directory: Path, scheme: str, *, beside: bool) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(directory, f"{scheme}{directory}/run", beside=beside)
            status = 0
        finally:
            os._exit(status)
    return child


def finished(directory: Path, scheme: str, *, beside: bool) -> Any:
    """The result of a run that nobody kills any more."""
    _, status = os.waitpid(start(directory, scheme, beside=beside), 0)
    if status != 0:
        sys.exit(f"a run failed; see {directory}/log")
    return json.loads((directory / "result.json").read_text())


def killed(directory: Path, scheme: str, longest_s: float, draw: random.Random) -> str:
    """Kill a run at a moment that is drawn; return what the disk says about it, or nothing if it had ended."""
    child = start(directory, scheme, beside=True)
    if draw.random() < 0.5:
        time.sleep(draw.uniform(0.0, longest_s))
    else:
        limit = time.monotonic() + longest_s
        for expected in (False, True) * draw.randint(1, 8):  # what an earlier kill left goes first
            while has_pending(directory) != expected and time.monotonic() < limit:
                time.sleep(LOOK_S)
        time.sleep(draw.uniform(0.0, IN_A_SAVE_S))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return ""
    run = directory / "run"
    committed = [path.parent for path in run.glob(f"checkpoint-*/{MANIFEST_NAME}")]
    for path in committed:
        verify_checkpoint(path)
    if not committed:
        return "before the first commit"
    return "while a save was pending" if has_pending(directory) else "between two saves"


def has_pending(directory: Path) -> bool:
    """Whether there is something on the disk, in the stage or in the bucket of a save that is not committed."""
    run = directory / "run"
    patterns = (f"run/checkpoint-*/{INCOMPLETE_NAME}", "stage/*/*/checkpoint-*")
    found = any(True for pattern in patterns for _ in directory.glob(pattern))
    return found or (run.is_dir() and bool(list_leftovers(run)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--bucket", action="store_true")
    options = parser.parse_args()
    scheme = "local://" if options.bucket else ""
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(2), "big")
    draw, root = random.Random(seed), Path(tempfile.mkdtemp(prefix="kills-"))
    quiet = root / "quiet"
    quiet.mkdir()
    began = time.monotonic()
    expected = finished(quiet, scheme, beside=False)
    longest_s = time.monotonic() - began
    moments: Counter[str] = Counter()
    differ = 0
    while moments.total() < options.kills:
        directory = root / f"run-{moments.total()}"
        directory.mkdir()
        here = [killed(directory, scheme, longest_s, draw) for _ in range(KILLS_A_RUN)]
        moments.update(moment for moment in here if moment)
        found = finished(directory, scheme, beside=True)
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
