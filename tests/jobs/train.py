"""Trains a small network with dropout as a job: ``python -m tests.jobs.train OUTPUT_DIR [STEP_TO_HOLD]``.

In the step to hold, once, rank 0 makes ``OUTPUT_DIR.held`` and waits until that is gone. The driver's process id is in
``OUTPUT_DIR.pid``.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from raytrainer import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from tests.dropout_net import make_net, make_samples

STEPS = 8


class Hold(TrainerCallback):
    """Makes one step long."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step + 1 == self.step and state.is_world_process_zero:
            held = Path(f"{args.output_dir}.held")
            held.touch()
            while held.exists():
                time.sleep(0.05)


def main(output_dir: str, step: int = 0) -> None:
    Path(f"{output_dir}.pid").write_text(str(os.getpid()))
    args = TrainingArguments(
        output_dir=output_dir,
        num_workers=2,
        resources_per_worker={"CPU": 1},
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
    )
    trainer = Trainer(make_net(), args, train_dataset=make_samples())
    if step:
        trainer.add_callback(Hold(step))
    trainer.train(resume_from_checkpoint="auto")
    trainer.save_model()
    print(f"trained to step {trainer.state.global_step}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
