"""A script whose own Ray loses its raylet: ``python -m tests.faults.raylet_run OUTPUT_DIR STEP``.

The raylet is killed when a step is done; STEP 0 means after ``train()``. Then the script goes on as ``auto`` does, and
writes the number of its steps into ``OUTPUT_DIR.done``: what it prints is mixed with the last words of that raylet.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from transformers import TrainerCallback

from raytrainer import Trainer, TrainingArguments, TrainingFailed
from tests.dropout_net import make_net, make_samples


class Slow(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(0.2)
        if args.process_index == 0:
            Path(args.output_dir, f"step-{state.global_step}").touch()


def kill_raylet() -> None:
    for process in psutil.Process().children(recursive=True):
        if "raylet/raylet" in " ".join(process.cmdline()):
            process.kill()
            while process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
            return


def kill_after(mark: Path) -> None:
    while not mark.exists():
        time.sleep(0.02)
    kill_raylet()


def main(output_dir: str, step: int) -> None:
    args = TrainingArguments(
        output_dir=output_dir,
        num_workers=2,
        resources_per_worker={"CPU": 1},
        max_steps=12,
        per_device_train_batch_size=4,
        save_steps=4,
        report_to=[],
    )
    trainer = Trainer(make_net(), args, train_dataset=make_samples(), callbacks=[Slow()])
    if step:
        mark = Path(output_dir, f"step-{step}")
        threading.Thread(target=kill_after, args=(mark,), daemon=True).start()
        try:
            trainer.train()
        except TrainingFailed as error:
            print(f"FAILED {error}", flush=True)
        trainer.train(resume_from_checkpoint="auto")
    else:
        trainer.train()
        kill_raylet()
    trainer.save_model()
    Path(f"{output_dir}.done").write_text(str(trainer.state.global_step))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
