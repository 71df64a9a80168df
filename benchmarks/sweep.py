"""How many short trials a sweep runs in a minute, and what a trial costs besides its steps.

    python benchmarks/sweep.py [--rounds 1] [--workers 1 2]

Eight trials of a tiny Llama on a local Ray of two CPUs. The peer for trials of one worker is
``transformers.Trainer.hyperparameter_search(backend="ray")``; for trials of two workers, which that cannot run, it is
Ray Train's ``TorchTrainer`` in a function of Ray Tune, written by hand, one trial at a time.
"""

from __future__ import annotations

import argparse
import statistics

from scripts.run import run

PEERS = {1: "transformers sweep", 2: "sweep by hand"}
NUM_TRIALS = 8


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], choices=sorted(PEERS))
    asked = parser.parse_args()
    for workers in asked.workers:
        sides = ("raytrainer sweep", PEERS[workers])
        rates: dict[str, list[float]] = {side: [] for side in sides}
        extra: list[float] = []
        for number in range(asked.rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                done = run(side, "--max_steps", "8", "--workers", str(workers), "--trials", str(NUM_TRIALS))
                rates[side].append(60 * NUM_TRIALS / (done.one("swept")["time"] - done.began))
                if side == sides[0]:
                    extra += done.one("swept")["extra_s"]
                print(
                    f"{workers} workers a trial  {side:18}  {rates[side][-1]:6.2f} trials a minute",
                    flush=True,
                )
        medians = {side: statistics.median(values) for side, values in rates.items()}
        print(f"  trials a minute, raytrainer / {sides[1]} = {medians[sides[0]] / medians[sides[1]]:.2f}")
        print(
            f"  a later trial at the same place, besides its steps: median {statistics.median(extra):.2f} s, "
            f"largest {max(extra):.2f} s\n"
        )


if __name__ == "__main__":
    main()
