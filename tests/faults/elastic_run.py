"""Trains on one to two nodes: ``python -m tests.faults.elastic_run OUTPUT_DIR WORKERS [ddp|fsdp]``.

``WORKERS`` is ``1,2``, or ``2,2`` for a run whose size never changes. As long as ``OUTPUT_DIR/hold-N`` exists, rank 0
waits before step N. ``OUTPUT_DIR/step-N-of-W-rank-R`` has the node of a rank that came there, among W.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray
import torch
from torch import nn
from transformers import TrainerCallback

from raytrainer import Trainer, TrainingArguments

EPOCHS = 3
STEP_S = 0.25
"""What a step costs at least. A run that is about to end does not grow."""
ROWS = 60
"""Not a multiple of a step's samples: the last step of an epoch is a short one."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(torch.tanh(self.linear(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        for block in self.blocks:
            x = block(x)
        predicted = self.head(x).squeeze(-1)
        return {"loss": nn.functional.mse_loss(predicted, labels), "logits": predicted}


class Hold(TrainerCallback):
    """Lets a test see where a run stands, and hold it."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        directory, step, rank = Path(args.output_dir), state.global_step + 1, args.process_index
        mark = directory / f"step-{step}-of-{args.world_size}-rank-{rank}"
        draft = mark.with_suffix(".draft")
        draft.write_text(ray.get_runtime_context().get_node_id())
        draft.rename(mark)
        time.sleep(STEP_S)
        while rank == 0 and (directory / f"hold-{step}").exists():
            time.sleep(0.05)


def main(output_dir: str, workers: str, mode: str = "ddp") -> None:
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, 8, generator=drawn)
    torch.manual_seed(0)
    args = TrainingArguments(
        output_dir=output_dir,
        num_workers=workers,
        resources_per_worker={"CPU": 1},
        fsdp=mode == "fsdp",
        fsdp_config={"transformer_layer_cls_to_wrap": ["Block"]} if mode == "fsdp" else None,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=6,
        elastic_timeout_s=2,
        debug="sample_ledger",
        report_to=[],
    )
    trainer = Trainer(Net(), args, train_dataset=[{"x": row, "labels": row.sum()} for row in rows])
    trainer.add_callback(Hold())
    trainer.train()
    trainer.save_model()
    Path(output_dir, "result.json").write_text(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main(*sys.argv[1:])
