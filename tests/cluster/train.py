"""Trains a small network with dropout on two nodes: ``python -m tests.cluster.train OUTPUT_DIR [STEP_TO_MARK]``.

At the step to mark, the rank on the second node makes ``OUTPUT_DIR/marked``, and waits there until that is gone, or
its node is.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import ray

from raytrainer import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from tests.dropout_net import make_net, make_samples

STEPS = 10
SECOND_NODE = "10.77.0.2"


class Mark(TrainerCallback):
    """Halts before a step, once in a run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        assert args.output_dir is not None
        was_here, mark = Path(args.output_dir, "was_here"), Path(args.output_dir, "marked")
        is_second_node = ray.util.get_node_ip_address() == SECOND_NODE
        if state.global_step + 1 == self.step and is_second_node and not was_here.exists():
            was_here.touch()
            mark.touch()
            while mark.exists():
                time.sleep(0.05)


def main(output_dir: str, step: int = 0) -> None:
    args = TrainingArguments(
        output_dir=output_dir,
        num_workers=2,
        resources_per_worker={"CPU": 1},
        placement_strategy="STRICT_SPREAD",
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=3,
        report_to=[],
    )
    trainer = Trainer(make_net(), args, train_dataset=make_samples())
    if step:
        trainer.add_callback(Mark(step))
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
