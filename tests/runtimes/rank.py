"""Trains one of the trainers under a launcher; rank 0 writes its numbers as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.runtimes.trainers import make_trainer, numbers

if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, target = sys.argv[1], Path(sys.argv[2])
    trainer = make_trainer(kind, target.parent / "output", num_workers=2)
    trainer.train()
    trained = numbers(trainer)
    trainer.end()
    again = trainer.evaluate()
    if trainer.is_world_process_zero():
        body = {
            "numbers": trained,
            "world_size": dist.get_world_size(),
            "wrapper": type(trainer.model_wrapped).__name__,
            "after_end": again["eval_loss"],
        }
        target.write_text(json.dumps(body))
    trainer.end()
