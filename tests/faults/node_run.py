"""Trains on two nodes: ``python -m tests.faults.node_run OUTPUT_DIR [MOMENT...]``.

At each moment a worker makes ``OUTPUT_DIR/MOMENT.halted`` with the id of its node, and waits there until that file is
gone, or its node is. Moments are ``step-N`` (rank 1 before step N), ``save-N`` (rank 0 in a save, before the manifest),
and ``eval-N`` (rank 1 in the evaluation after step N). ``slow`` makes each step take a third of a second.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray
from transformers import TrainerCallback

from raytrainer import Trainer, TrainingArguments
from raytrainer.checkpoint import commit
from tests.dropout_net import make_net, make_samples

STEPS = 12


class Halt(TrainerCallback):
    """Halts at moments, once at each in a run."""

    def __init__(self, moments: list[str]) -> None:
        self.moments = set(moments)
        self.directory = Path()
        self.rank = -1

    def at(self, moment: str) -> None:
        if moment not in self.moments:
            return
        was_here, mark = self.directory / f"{moment}.seen", self.directory / f"{moment}.halted"
        if was_here.exists():
            return
        was_here.touch()
        text = self.directory / f"{moment}.writing"
        text.write_text(ray.get_runtime_context().get_node_id())
        text.rename(mark)
        while mark.exists():
            time.sleep(0.05)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.directory, self.rank = Path(args.output_dir), args.process_index
        assert ray.nodes()
        ledger = self.directory / f"steps-{self.rank}"
        self.write = lambda line: ledger.open("a").write(f"{line}\n")
        if self.rank != 0:
            return
        write_synced = commit.write_synced

        def halting(path: Path, *more: Any, **options: Any) -> Any:
            for step in range(STEPS + 1):
                if f"checkpoint-{step}." in str(path):
                    self.at(f"save-{step}")
            return write_synced(path, *more, **options)

        commit.write_synced = halting

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.rank == 1:
            self.at(f"step-{state.global_step + 1}")
        if "slow" in self.moments:
            time.sleep(0.33)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write(f"{state.global_step} {time.time():.1f}")

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.rank == 1:
            self.at(f"eval-{state.global_step}")


def main(output_dir: str, *moments: str) -> None:
    samples = make_samples()
    args = TrainingArguments(
        output_dir=output_dir,
        num_workers=2,
        resources_per_worker={"CPU": 1},
        placement_strategy="STRICT_SPREAD",
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=4,
        eval_strategy="steps",
        eval_steps=6,
        placement_timeout_s=60,
        enable_jit_checkpoint="jit" in moments,
        report_to=[],
    )
    trainer = Trainer(make_net(), args, train_dataset=samples, eval_dataset=samples[:8])
    trainer.add_callback(Halt(list(moments)))
    trainer.train(resume_from_checkpoint="auto")
    trainer.save_model()
    logs = [
        {key: log[key] for key in ("step", "loss", "eval_loss") if key in log}
        for log in trainer.state.log_history
    ]
    Path(output_dir, "result.json").write_text(json.dumps(logs))


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:])
