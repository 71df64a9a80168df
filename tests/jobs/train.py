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

import torch
from torch import nn

from raytrainer import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

STEPS = 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        predicted = self.head(self.dropout(torch.tanh(self.hidden(x)))).squeeze(-1)
        return {"loss": nn.functional.mse_loss(predicted, labels), "logits": predicted}


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
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 4, generator=drawn)
    torch.manual_seed(0)
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
    trainer = Trainer(Net(), args, train_dataset=[{"x": row, "labels": row.sum()} for row in rows])
    if step:
        trainer.add_callback(Hold(step))
    trainer.train(resume_from_checkpoint="auto")
    trainer.save_model()
    print(f"trained to step {trainer.state.global_step}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
