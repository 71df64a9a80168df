"""How long a user waits: from `python script.py` to the first optimizer step, and for an evaluation after training.

    python benchmarks/time_to_first_step.py [--rounds 5]

Two workers on a local Ray that the script starts. The peer is transformers.Trainer in a Ray Train worker function,
written by hand with prepare_trainer and RayTrainReportCallback; its evaluation after training is a second fit() from
the checkpoint of the first.
"""

from __future__ import annotations

import argparse

from scripts.run import SIDES, interleaved, report, run


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    first: dict[str, list[float]] = {side: [] for side in SIDES}
    evaluation: dict[str, list[float]] = {side: [] for side in SIDES}
    for side in interleaved(rounds):
        done = run(side, "--max_steps", "5", "--evaluate")
        first[side].append(done.one("step")["time"] - done.began)
        evaluation[side].append(done.one("evaluated")["time"] - done.one("trained")["time"])
        loss = done.one("metrics")["loss"]
        print(
            f"{side:10}  first step {first[side][-1]:6.2f} s   evaluation {evaluation[side][-1]:6.2f} s"
            f"   eval_loss {loss:.6f}",
            flush=True,
        )
    report("python script.py until the first optimizer step is done", first)
    report("evaluation after training", evaluation)


if __name__ == "__main__":
    main()
