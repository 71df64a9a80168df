"""Trains the small run of each library in a process of its own, and writes losses and weights.

python -m tests.clients.libraries stock|stock_ranks|in_process|resumed|workers|killed DIRECTORY NAME...

stock_ranks is for the ranks of torchrun. The resumed runs go on from checkpoint-2 of those in process, which stand in
DIRECTORY.
"""

from __future__ import annotations

import functools
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
    "stock_ranks": {},
    "in_process": {"num_workers": 0},
    "resumed": {"num_workers": 0},
    "workers": {"num_workers": 2},
    "killed": {"num_workers": 2},
}
STOCK = ("stock", "stock_ranks")


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


class FirstStep(transformers.TrainerCallback):
    """Notes the step that training begins at."""

    def __init__(self) -> None:
        self.step = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step


def train(name: str, mode: str, directory: Path) -> dict[str, Any]:
    """Train one of them."""
    home = directory / mode / name
    home.mkdir(parents=True, exist_ok=True)
    trainer = recipes.RECIPES[name](home / "run", **OPTIONS[mode])
    inner = recipes.inner(trainer)
    if mode == "killed":
        inner.add_callback(DieOnce(str(home / "died")))
    if mode == "resumed":
        # setfit has no argument for it.
        checkpoint = directory / "in_process" / name / "run" / "checkpoint-2"
        inner.train = functools.partial(inner.train, resume_from_checkpoint=str(checkpoint))
    inner.add_callback(FirstStep())
    trainer.train()
    heard = [one for one in inner.callback_handler.callbacks if isinstance(one, FirstStep)]
    found = {
        "losses": recipes.losses(trainer),
        "rewards": [log["reward"] for log in inner.state.log_history if "reward" in log],
        "bases": [kind.__module__ for kind in type(inner).__mro__],
        "checkpoints": sorted(path.name for path in (home / "run").glob("checkpoint-*")),
        "first_step": heard[0].step,
        "died": (home / "died").exists(),
        "world_size": getattr(inner._process, "trained_world_size", None)
        if mode not in STOCK
        else inner.args.world_size,
    }
    weights = {key: value.contiguous().clone() for key, value in inner.model.state_dict().items()}
    if os.environ.get("RANK", "0") == "0":
        safetensors.torch.save_file(weights, home / "weights.safetensors")
    if mode not in STOCK:
        inner.end()
    return found


def main() -> None:
    """All that were named."""
    mode, directory, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if mode not in STOCK:
        import raytrainer

        raytrainer.patch_transformers()
    torch.set_num_threads(1)
    found = {name: train(name, mode, directory) for name in names}
    if os.environ.get("RANK", "0") == "0":
        (directory / f"{mode}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
