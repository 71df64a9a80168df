"""Trains under torchrun with one of the two libraries, and writes what rank 0 saw as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.parallel import DistributedDataParallel

import raytrainer
from tests.parity.test_against_transformers import make_trainer, rows


class Probe(transformers.TrainerCallback):
    """Remembers what kind of optimizer step really ran: whether the model was wrapped in DDP."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.is_ddp = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.is_ddp = isinstance(self.trainer.model_wrapped, DistributedDataParallel)


def main() -> None:
    """Train, and write steps and weights."""
    library, target = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    module = raytrainer if library == "raytrainer" else transformers
    trainer = make_trainer(
        module, target.parent / library, num_train_epochs=1, gradient_accumulation_steps=3, num_ranks=2
    )
    probe = Probe()
    probe.trainer = trainer
    trainer.add_callback(probe)
    trainer.train()
    if trainer.is_world_process_zero():
        weights = {name: value.tolist() for name, value in trainer.model.state_dict().items()}
        body = {
            "rows": rows(trainer),
            "weights": weights,
            "is_ddp": probe.is_ddp,
            "world": trainer.args.world_size,
        }
        target.write_text(json.dumps(body))
    trainer.end()


if __name__ == "__main__":
    main()
