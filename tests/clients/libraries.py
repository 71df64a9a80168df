"""Trains the small run of each library in a process of its own, and writes losses and weights.

python -m tests.clients.libraries stock|in_process|workers|killed DIRECTORY NAME...
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers

from tests.clients import recipes

OPTIONS: dict[str, dict[str, Any]] = {
    "stock": {},
    "in_process": {"num_workers": 0},
    "workers": {"num_workers": 2},
    "killed": {"num_workers": 2},
}


class DieOnce(transformers.TrainerCallback):
    """SIGKILL for rank 1 at the end of step 3."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if (
            state.global_step == 3
            and int(os.environ.get("RANK", "0")) == 1
            and not Path(self.marker).exists()
        ):
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def train(name: str, mode: str, directory: Path) -> dict[str, Any]:
    """Train one of them."""
    home = directory / mode / name
    home.mkdir(parents=True)
    trainer = recipes.RECIPES[name](home / "run", **OPTIONS[mode])
    inner = recipes.inner(trainer)
    if mode == "killed":
        inner.add_callback(DieOnce(str(home / "died")))
    trainer.train()
    found = {
        "losses": recipes.losses(trainer),
        "rewards": [log["reward"] for log in inner.state.log_history if "reward" in log],
        "bases": [kind.__module__ for kind in type(inner).__mro__],
        "checkpoints": sorted(path.name for path in (home / "run").glob("checkpoint-*")),
        "died": (home / "died").exists(),
        "world_size": getattr(inner._process, "trained_world_size", None) if mode != "stock" else 1,
    }
    weights = {key: value.contiguous().clone() for key, value in inner.model.state_dict().items()}
    safetensors.torch.save_file(weights, home / "weights.safetensors")
    if mode != "stock":
        inner.end()
    return found


def main() -> None:
    """All that were named."""
    mode, directory, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if mode != "stock":
        import raytrainer

        raytrainer.patch_transformers()
    torch.set_num_threads(1)
    found = {name: train(name, mode, directory) for name in names}
    (directory / f"{mode}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
