"""Trains the trainers in turn under a launcher; rank 0 writes their results as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.runtimes.trainers import KINDS, make_trainer, numbers


def train(kind: str, directory: Path) -> dict[str, Any]:
    """Train one of them, and evaluate after it has ended."""
    trainer = make_trainer(kind, directory, num_workers=2)
    trainer.train()
    trained, wrapper = numbers(trainer), type(trainer.model_wrapped).__name__
    trainer.end()
    again = trainer.evaluate()["eval_loss"]
    seen = {
        "numbers": trained,
        "world_size": dist.get_world_size(),
        "wrapper": wrapper,
        "after_end": again,
    }
    trainer.end()
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    results = {kind: train(kind, target.parent / kind) for kind in KINDS}
    if int(os.environ["RANK"]) == 0:
        target.write_text(json.dumps(results))
    # If a rank exits while the other is still working, gloo aborts the other.
    dist.barrier()
