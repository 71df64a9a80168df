"""Fine-tunes as a rank of torchrun, and writes what rank 0 logged as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.sft.runs import fine_tune, logged


def main() -> None:
    """Train and evaluate on two ranks."""
    target = Path(sys.argv[1])
    torch.set_num_threads(1)
    trainer = fine_tune(target.parent / "ranks", num_workers=2, per_device_train_batch_size=2)
    if trainer.is_world_process_zero():
        body = {"rows": logged(trainer), "group_size": dist.get_world_size()}
        target.write_text(json.dumps(body))
    trainer.end()


if __name__ == "__main__":
    main()
