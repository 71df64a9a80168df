"""Trains under torchrun with one of the two libraries, and writes rank 0's results as JSON."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch.nn.parallel import DistributedDataParallel

from tests.parity.twins import LIBRARIES, eval_losses, make_trainer, rows


class Probe(transformers.TrainerCallback):
    """Records what really ran: the wrapper of the model, and the size of the process group."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.wrappers: set[str] = set()
        self.is_ddp = True
        self.group_size = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.wrappers.add(type(self.trainer.model_wrapped).__name__)
        self.is_ddp &= isinstance(self.trainer.model_wrapped, DistributedDataParallel)
        self.group_size = dist.get_world_size()


def digest(model: torch.nn.Module) -> str:
    """A hash of all weights, bitwise."""
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(name.encode() + value.detach().numpy().tobytes())
    return total.hexdigest()


def train(library: str, directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Train, and return the steps and the weights' hash of every rank."""
    trainer = make_trainer(LIBRARIES[library], directory, num_ranks=2, **options)
    probe = Probe(trainer)
    trainer.add_callback(probe)
    trainer.train()
    digests: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, digest(trainer.model))
    return {
        "rows": rows(trainer),
        "eval_losses": eval_losses(trainer),
        "weights": {name: value.tolist() for name, value in trainer.model.state_dict().items()},
        "digests": digests,
        "is_ddp": probe.is_ddp,
        "wrappers": sorted(probe.wrappers),
        "group_size": probe.group_size,
        "world_size": trainer.args.world_size,
    }


def main() -> None:
    """All runs of one library."""
    library, target, runs = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    results = {
        name: train(library, target.parent / f"{library}_{name}", options) for name, options in runs.items()
    }
    if dist.get_rank() == 0:
        target.write_text(json.dumps(results))
    # If a rank exits while the other is still working, gloo aborts the other.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
