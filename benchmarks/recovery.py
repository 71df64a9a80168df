"""What a killed worker costs: the time from SIGKILL to the next new step, and the steps that are repeated.

    python benchmarks/recovery.py [--rounds 5]

Two workers on local Ray, a checkpoint at every fifth step, rank 1 killed at the end of step 8. A step takes 0.3 s, as
in a small real run: with steps of a few milliseconds the peer would lose more of them, since its checkpoints count only
once Ray's controller knows about them. The peer is transformers.Trainer in a Ray Train worker function, written by hand
with prepare_trainer and RayTrainReportCallback.
"""

from __future__ import annotations

import argparse
import statistics

from scripts.figures import note
from scripts.run import SIDES, Run, interleaved, report, run


def recovery(done: Run) -> tuple[float, int]:
    """Seconds from the kill to the next new step, and how many steps were repeated.

    Raises:
        SystemExit: If no worker was killed, or none was restarted.
    """
    killed = done.one("kill")
    before = [mark["step"] for mark in done.all("step") if mark["time"] <= killed["time"]]
    reached = max([*before, killed["step"]])
    later = [mark for mark in done.all("began") if mark["time"] > killed["time"]]
    new = [mark for mark in done.all("step") if mark["time"] > killed["time"] and mark["step"] > reached]
    if not later or not new:
        raise SystemExit(f"No step followed the kill: {done.marks}")
    return new[0]["time"] - killed["time"], reached - later[0]["step"]


def main() -> None:
    """Run the rounds and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    lost: dict[str, list[int]] = {side: [] for side in SIDES}
    for side in interleaved(rounds):
        seconds, steps = recovery(run(side, "--max_steps", "12", "--kill", "--step_s", "0.3"))
        times[side].append(seconds)
        note("recovery", side, seconds)
        lost[side].append(steps)
        print(f"{side:10}  next new step after {seconds:6.2f} s   steps lost {steps}", flush=True)
    report("SIGKILL of one of two workers until the next new step", times)
    for side, steps_lost in lost.items():
        print(f"  {side:10}  steps lost: median {statistics.median(steps_lost):g}   of {steps_lost}")


if __name__ == "__main__":
    main()
