"""Fine-tunes as a rank of torchrun, in several ways, and writes rank 0's results as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from tests.sft.runs import WAYS, adapter, fine_tune, logged


def run(directory: Path, way: str, *, is_adapter: bool, resumes: bool) -> dict[str, Any]:
    """Train and evaluate."""
    trainer = fine_tune(
        directory,
        resume=str(directory / "checkpoint-1") if resumes else None,
        num_workers=2,
        per_device_train_batch_size=2,
        peft_config=adapter() if is_adapter else None,
        **WAYS[way],
    )
    wrapped = trainer.model_wrapped
    return {
        "rows": logged(trainer),
        "wrapper": type(wrapped).__name__,
        "stage": wrapped.zero_optimization_stage() if hasattr(wrapped, "zero_optimization_stage") else 0,
        "dtensors": sum(isinstance(parameter, DTensor) for parameter in trainer.model.parameters()),
        "files": sorted(path.name for path in (directory / "checkpoint-1").iterdir()),
    }


def main() -> None:
    """Train in every way on two ranks, and again from the first checkpoint."""
    target = Path(sys.argv[1])
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for way in WAYS:
        for kind in ("whole", "adapter"):
            for end in ("", " resumed"):
                found[f"{way} {kind}{end}"] = run(
                    target.parent / way / kind, way, is_adapter=kind == "adapter", resumes=bool(end)
                )
    if dist.get_rank() == 0:
        target.write_text(json.dumps(found))
    dist.barrier()


if __name__ == "__main__":
    main()
