"""A sweep in a process of its own, which a test interrupts, kills and starts again: two trials, one after the other."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from ray import tune
from transformers import TrainerCallback

from raytrainer.tune.interruption import REQUEST_NAME
from tests.tune.trials import make_trainer

RATES = [1e-2, 3e-3]
MAX_STEPS, EVERY = 40, 10
INTERRUPTED_AT, KILLED_AT = 15, 25
"""Steps of the second trial."""


class Pauses(TrainerCallback):
    """In the second trial, waits for the interruption and for the kill, each once."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.learning_rate != RATES[1]:
            return
        here = Path(self.directory)
        if state.global_step == KILLED_AT and self.is_first(here / "is-to-be-killed"):
            time.sleep(600)
        if state.global_step >= INTERRUPTED_AT and not (here / "is-interrupted").exists():
            (here / "is-to-be-interrupted").touch()
            while not (here / "sweep" / REQUEST_NAME).exists():
                time.sleep(0.05)
            time.sleep(0.3)  # The request reaches the workers in one of the next steps.
            if state.global_step == KILLED_AT - 1:
                raise AssertionError("the interruption did not reach the workers")

    def is_first(self, marker: Path) -> bool:
        if marker.exists():
            return False
        marker.touch()
        return True


def main() -> None:
    directory = Path(sys.argv[1])
    trainer = make_trainer(
        directory,
        callbacks=[Pauses(directory)],
        max_steps=MAX_STEPS,
        eval_steps=EVERY,
        save_steps=EVERY,
        logging_steps=EVERY,
    )
    best = trainer.hyperparameter_search(
        {"learning_rate": tune.grid_search(RATES)},
        n_trials=1,
        name="sweep",
        max_concurrent_trials=1,
        resume=(directory / "sweep").exists(),
    )
    summary = best.run_summary
    print(f"SWEEP pid={os.getpid()} interrupted={summary.interrupted}", flush=True)


if __name__ == "__main__":
    main()
