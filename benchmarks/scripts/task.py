"""What both scripts train: a tiny Llama on random tokens, with timestamps of the events that are measured."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

KILLED_STEP = 8
SAVE_STEPS = 5
NUM_WORKERS = 2


def options() -> argparse.Namespace:
    """Command-line options that a benchmark passes to its script."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True, help="for everything that the run writes")
    parser.add_argument("--max_steps", type=int, required=True)
    parser.add_argument("--kill", action="store_true", help=f"SIGKILL rank 1 after step {KILLED_STEP}, once")
    parser.add_argument("--step_s", type=float, default=0.0, help="what is added to each step [s]")
    parser.add_argument("--elastic", action="store_true", help=f"with 1 to {NUM_WORKERS} workers")
    parser.add_argument("--address", default="local", help="of the Ray cluster")
    parser.add_argument("--evaluate", action="store_true", help="evaluate after training")
    return parser.parse_args()


def arguments(directory: Path, max_steps: int) -> dict[str, Any]:
    """The arguments that both Trainers get."""
    return {
        "output_dir": str(directory / "output"),
        "max_steps": max_steps,
        "per_device_train_batch_size": 4,
        "save_steps": SAVE_STEPS,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def make_model() -> torch.nn.Module:
    """A tiny Llama."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    return transformers.LlamaForCausalLM(config)


def make_samples(count: int = 256) -> list[dict[str, torch.Tensor]]:
    """Rows of 32 tokens."""
    tokens = torch.randint(0, 128, (count, 32), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in tokens]


def mark(directory: Path, name: str, **more: Any) -> None:
    """Append a line with the time [s since the epoch], atomically with respect to other writers."""
    line = json.dumps({"name": name, "time": time.time(), **more}) + "\n"
    handle = os.open(directory / "marks.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)


class Marks(transformers.TrainerCallback):
    """Marks the steps of rank 0, and kills rank 1 if requested."""

    def __init__(self, directory: Path, *, kills: bool, step_s: float) -> None:
        self.directory = directory
        self.kills = kills
        self.step_s = step_s

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ray: Any = sys.modules["ray"]  # what imports it is measured too
        node = ray.get_runtime_context().get_node_id()
        mark(self.directory, "on", rank=args.process_index, node=node)
        if args.process_index == 0:
            mark(self.directory, "began", step=state.global_step, workers=args.world_size)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(self.step_s)
        if args.process_index == 0:
            mark(self.directory, "step", step=state.global_step)
        elif self.kills and state.global_step == KILLED_STEP and self.is_first():
            mark(self.directory, "kill", step=state.global_step)
            os.kill(os.getpid(), signal.SIGKILL)

    def is_first(self) -> bool:
        """Whether no worker has been killed yet."""
        try:
            os.close(os.open(self.directory / "killed", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True
