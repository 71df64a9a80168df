"""Trains on a GPU as a rank of a launcher, and writes what was engaged and what came out.

Usage: rank.py TARGET DIRECTORY
"""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import transformers
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

import raytrainer
from tests.gpu.twins import make_gpu_trainer
from tests.parity.twins import rows

RUNS: dict[str, dict[str, Any]] = {
    "rank": {},
    "ddp": {},
    "ddp bf16": {"bf16": True},
    "fsdp": {"fsdp": True},
    "fsdp bf16": {"fsdp": True, "bf16": True},
    "fsdp offload": {"fsdp": "full_shard offload"},
}
if importlib.util.find_spec("deepspeed") is not None:
    RUNS |= {
        "zero2": {"deepspeed": {"zero_optimization": {"stage": 2}}},
        "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
        "zero2 bf16": {"deepspeed": {"zero_optimization": {"stage": 2}}, "bf16": True},
        "zero2 fp16": {"deepspeed": {"zero_optimization": {"stage": 2}}, "fp16": True},
    }


class Engaged(transformers.TrainerCallback):
    """What a run trains with, seen in its steps."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.trainer: Any = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = list(kwargs["model"].parameters())
        self.seen = {
            "parameters": len(parameters),
            "dtensors": sum(isinstance(one, DTensor) for one in parameters),
            "wrapped": type(self.trainer.model_wrapped).__name__,
            "group": str(dist.get_backend()),
            "devices": sorted({one.device.type for one in parameters}),
        }


def train(directory: Path, *, resume: str | None = None, **options: Any) -> dict[str, Any]:
    """All ranks: one run."""
    engaged = Engaged()
    trainer = make_gpu_trainer(
        raytrainer,
        directory,
        callbacks=[engaged],
        **{
            "max_steps": 8,
            "save_strategy": "steps",
            "save_steps": 4,
            "optim": "adamw_torch_fused",
            "num_ranks": dist.get_world_size() if dist.is_initialized() else 1,
            **options,
        },
    )
    engaged.trainer = trainer
    trainer.train(resume_from_checkpoint=resume)
    state = trainer._backend.full_state_dict(trainer.model)
    return {
        "engaged": engaged.seen,
        "rows": rows(trainer),
        "weights": {name: value.double().sum().item() for name, value in state.items()},
    }


def main() -> None:
    """All ranks: all runs, each also from its checkpoint."""
    target, directory = Path(sys.argv[1]), Path(sys.argv[2])
    results: dict[str, Any] = {}
    for name, options in RUNS.items():
        where = directory / name
        # Accelerate leaves the model of a group of one rank as it is, on a GPU.
        with patch.object(Accelerator, "multi_device", True) if "ddp" in name else nullcontext():
            try:
                results[name] = train(where, **options)
                results[f"{name} resumed"] = train(where, resume=str(where / "checkpoint-4"), **options)
            except Exception as error:  # the other runs are of interest too
                results[name] = {"error": "".join(traceback.format_exception(error))[-6000:]}
    if dist.get_rank() == 0:
        target.write_text(json.dumps(results))
    dist.barrier()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
