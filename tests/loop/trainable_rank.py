"""Trains under torchrun with callbacks that freeze and unfreeze, and writes rank 0's results as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raytrainer import ConfigurationError
from tests.loop.test_trainable import make, switch_of
from tests.parity.twins import rows


def results(name: str, kind: str, directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The steps of a run, and of one that resumes from its checkpoint; or the error that ended it."""
    options = {"num_ranks": 2, "per_device_train_batch_size": 2, **options}
    trainer = make(directory, kind, **options)
    if name == "on_rank_0_alone" and dist.get_rank() > 0:
        trainer.remove_callback(switch_of(trainer))
    try:
        trainer.train()
    except ConfigurationError as error:
        return {"error": str(error)}
    found = {
        "rows": rows(trainer),
        "wrapper": type(trainer.model_wrapped).__name__,
        "groups": len(trainer.optimizer.param_groups),
    }
    if "save_steps" in options:
        resumed = make(directory / "resumed", kind, **options)
        resumed.train(resume_from_checkpoint=str(directory / "checkpoint-3"))
        found |= {"resumed_rows": rows(resumed), "resumed_groups": len(resumed.optimizer.param_groups)}
    return found


def main() -> None:
    """All runs."""
    target, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    found = {
        name: results(name, kind, target.parent / name, options) for name, (kind, options) in runs.items()
    }
    if dist.get_rank() == 0:
        target.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
