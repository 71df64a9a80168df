"""How long a user waits: from `python script.py` to the first optimizer step, and for an evaluation after training.

    python benchmarks/time_to_first_step.py [--rounds 5]

Two workers on a local Ray that the script starts. The peer is transformers.Trainer in a Ray Train worker function,
written by hand with prepare_trainer and RayTrainReportCallback; its evaluation after training is a second fit() from
the checkpoint of the first. That evaluation can fail, because both of the peer's workers write each checkpoint, and one
can read a file that the other has just emptied; this is said, and that reading left out.
"""

from __future__ import annotations

import argparse

from scripts.figures import note
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
        done = run(side, "--max_steps", "5", "--evaluate", may_fail=side != "raytrainer")
        first[side].append(done.one("step")["time"] - done.began)
        note("first step", side, first[side][-1])
        if done.failure is None:
            evaluation[side].append(done.one("evaluated")["time"] - done.one("trained")["time"])
            note("evaluation", side, evaluation[side][-1])
            told = f"{evaluation[side][-1]:6.2f} s   eval_loss {done.one('metrics')['loss']:.6f}"
        else:
            told = f"failed: {done.failure.splitlines()[-1]}"
        print(f"{side:10}  first step {first[side][-1]:6.2f} s   evaluation {told}", flush=True)
    report("python script.py until the first optimizer step is done", first)
    report("evaluation after training", evaluation)


if __name__ == "__main__":
    main()
