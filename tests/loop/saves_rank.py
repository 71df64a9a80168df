"""Trains under torchrun, saving beside training and not, on each backend, and writes rank 0's results as JSON.

    python saves_rank.py TARGET JSON

JSON is name -> options of a run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers

import raytrainer
from raytrainer import CheckpointError
from raytrainer.checkpoint.background import writer
from raytrainer.checkpoint.names import list_leftovers
from raytrainer.storage.store import ObjectStore
from tests.checkpoint.background import odd_process
from tests.loop.saves import Calls, OpenGate
from tests.parity.twins import make_trainer, rows

EVERY_THIRD: dict[str, Any] = {"max_steps": 9, "save_strategy": "steps", "save_steps": 3}

uploads: list[str] = []
"""Files of checkpoints that rank 0 itself uploaded in a run."""


class AsksAlone(transformers.TrainerCallback):
    """On one rank: asks for a save in one evaluation, and for the end in the next."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            control.should_save = True
        if state.global_step == 6:
            control.should_training_stop = True
            self.gate.touch()


class Removes(transformers.TrainerCallback):
    """On one rank: removes what is being written, or all of the output directory, after step 4."""

    def __init__(self, *, is_all: bool) -> None:
        self.is_all = is_all

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 4:
            directory = Path(args.output_dir)
            (written,) = list_leftovers(directory)
            shutil.rmtree(directory if self.is_all else written.path)


def count_uploads() -> None:
    put = ObjectStore.put

    def counted(self: ObjectStore, path: Path, name: str) -> None:
        if name.startswith("checkpoint-"):
            uploads.append(name)
        put(self, path, name)

    ObjectStore.put = counted


def results(name: str, options: dict[str, Any], root: Path) -> dict[str, Any]:
    """The steps of a run and its saves, or the error that ended it."""
    odd = {"gate": str(root / f"{name}.gate")}
    rank = os.environ["RANK"]
    if name == "denied_on_rank_1_bucket":
        odd = {"denies": "rng_state_1.pth"} if rank == "1" else {}
    if name.startswith("late_on_rank_1"):
        odd = {"gate": str(root / f"{name}.{'late' if rank == '1' else 'gate'}")}
    if name == "full_on_rank_1":
        odd = {"fails": rank == "1"}
    os.environ[odd_process.VARIABLE] = json.dumps(odd)
    calls = Calls(root / name)
    uploads.clear()
    trainer = make_trainer(
        raytrainer,
        f"local://{root / name}" if name.endswith("_bucket") else root / name,
        num_ranks=2,
        per_device_train_batch_size=2,
        report_page=False,
        **{**EVERY_THIRD, **options},
    )
    trainer.add_callback(calls)
    is_merged = options.get("async_save_overlap") == "merge"
    if "eval_steps" in options:
        if rank == "1":
            trainer.add_callback(AsksAlone(root / f"{name}.gate"))
    else:
        trainer.add_callback(OpenGate(root / f"{name}.gate", 7 if is_merged else 5))
    trainer.add_callback(OpenGate(root / f"{name}.late", 7))
    if name.startswith("removed") and rank == "0":
        trainer.add_callback(Removes(is_all=name == "removed"))
    try:
        trainer.train()
    except CheckpointError as error:
        return {"error": str(error), "notes": getattr(error, "__notes__", [])}
    found = {"rows": rows(trainer), "saves": calls.saves, "wrapper": type(trainer.model_wrapped).__name__}
    if options.get("async_save"):
        found["steps_before_first"] = calls.steps_before_save(calls.saves[0])
        found["uploads"] = list(uploads)
    return found


def main() -> None:
    """All runs."""
    target, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    count_uploads()
    writer.PROCESS = odd_process.NAME
    found = {name: results(name, options, target.parent) for name, options in runs.items()}
    if dist.get_rank() == 0:
        target.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
