"""Tries faults at random for some time.

    python -m tests.soak [--minutes 30] [--seed N] [--rounds N] [--saves-beside]

Each run with faults is compared with a run of the same setup that nothing disturbed: the losses of all steps, the
evaluations, and the weights, bit by bit. A script that a fault ended is started again, as its user would do. Exits with
1 if a run did not end, or ended otherwise; what it printed is kept then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.jobs.head import running_head
from tests.leftovers import end_group, members, wait_for_end
from tests.ray_cluster import ENVIRONMENT, ROOT
from tests.soak.plan import ENDS_DRIVER, Round, Setup, rounds

LIMIT_S = 300.0
"""How long one start of a script may take [s]."""


class Soak:
    """Runs rounds and counts.

    Args:
        directory: For everything that the runs write.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._expected: dict[Setup, Any] = {}
        self.tried: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()

    def run(self, number: int, asked: Round) -> bool:
        """Run a round; whether it ended as the run that nothing disturbed."""
        if asked.setup not in self._expected:
            quiet = Round(setup=asked.setup, ray="own", faults=())
            found = self._train(f"quiet-{len(self._expected)}", quiet, {})
            if not isinstance(found, dict):
                raise SystemExit(f"A run without faults failed ({asked.setup}):\n{found}")
            self._expected[asked.setup] = found
        began_s = time.monotonic()
        with contextlib.ExitStack() as stack:
            environment = {}
            if asked.ray == "cluster":
                head = stack.enter_context(running_head())
                environment = {**head.environment, "RAY_ADDRESS": head.address}
            found = self._train(f"round-{number}", asked, environment)
        reason = _difference(found, self._expected[asked.setup])
        kinds = [fault.kind for fault in asked.faults]
        self.tried.update(kinds)
        if not reason:
            self.survived.update(kinds)
        faults = "; ".join(map(str, asked.faults))
        took = f"{time.monotonic() - began_s:.0f} s"
        print(
            f"{number:3} {asked.setup}, {asked.ray} Ray: {faults}: {reason or 'the same'} ({took})",
            flush=True,
        )
        return not reason

    def _train(self, name: str, asked: Round, environment: dict[str, str]) -> Any:
        """The result of a run, or what it printed where it gave none."""
        directory = self._directory / name
        directory.mkdir()
        log = directory / "log"
        # One start more than faults that may end the script.
        for _ in range(1 + sum(fault.kind in ENDS_DRIVER for fault in asked.faults)):
            with log.open("a") as opened:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.soak.run", str(directory), asked.to_json()],
                    cwd=ROOT,
                    env={**os.environ, **ENVIRONMENT, "RAY_TMPDIR": str(directory), **environment},
                    stdout=opened,
                    stderr=subprocess.STDOUT,
                )
                try:
                    process.wait(LIMIT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    return f"it hung for {LIMIT_S:g} s; see {log}"
            if not wait_for_end(directory) and process.returncode >= 0:
                return f"it left processes: {members(directory)}; see {log}"
            end_group(process, directory)  # what a killed script leaves
            if (directory / "result.json").exists():
                missed = [fault for fault in asked.faults if not (directory / f"{fault}.done").exists()]
                if missed:
                    return f"these did not happen: {', '.join(map(str, missed))}; see {log}"
                found = json.loads((directory / "result.json").read_text())
                shutil.rmtree(directory)
                return found
        return f"it ended with {process.returncode}; see {log}"


def _difference(found: Any, expected: dict[str, Any]) -> str:
    if not isinstance(found, dict):
        return str(found)
    different = [name for name, value in expected.items() if found[name] != value]
    return f"OTHER {', '.join(different)}" if different else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None, help="repeats the faults of an earlier soak")
    parser.add_argument("--rounds", type=int, default=None, help="at most so many runs")
    parser.add_argument("--saves-beside", action="store_true", help="all runs write saves beside training")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(2), "big")
    # Short: the path of a socket has at most 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="sk-", dir="/tmp"))
    soak = Soak(directory)
    print(f"seed {seed}, for {options.minutes:g} minutes", flush=True)
    deadline = time.monotonic() + 60 * options.minutes
    failed = 0
    for number, asked in enumerate(rounds(seed, saves_beside=options.saves_beside), 1):
        if time.monotonic() > deadline or (options.rounds is not None and number > options.rounds):
            break
        failed += not soak.run(number, asked)
    print("\nfaults tried and survived")
    for kind, count in sorted(soak.tried.items()):
        print(f"  {kind:42} {soak.survived[kind]:3} of {count:3}")
    print(f"  {'all':42} {soak.survived.total():3} of {soak.tried.total():3}   seed {seed}")
    if failed:
        raise SystemExit(f"{failed} runs were not the same; see {directory}")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
