"""A trainer that prepares a teacher in its constructor, and what its ranks saw; run as a script by torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

import raytrainer
from tests.parity.twins import make_args, make_model, make_samples


class Distilling(raytrainer.Trainer):
    """Keeps the accelerator, a teacher, a trainable module beside the model, and a loader."""

    def __init__(self, teacher: Any, **options: Any) -> None:
        super().__init__(**options)
        self.early = self.accelerator
        self.teacher = self.accelerator.prepare_model(teacher, evaluation_mode=True)
        self.nested = {"teachers": [self.teacher]}
        self.beside = self.accelerator.prepare(torch.nn.Linear(1, 1))
        self.seen: dict[str, Any] = {}

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        return self.accelerator.prepare(DataLoader(make_samples(6), batch_size=1))

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        accelerator = self.accelerator
        self.seen = {
            "teacher is prepared": self.teacher._is_accelerate_prepared,
            "nested": self.nested["teachers"][0] is self.teacher,
            "beside": type(getattr(self, "beside", None)).__name__,
            "late": getattr(self, "late", None) is not None and self.late._is_accelerate_prepared,
            "ranks": accelerator.gather(torch.tensor([accelerator.process_index])).tolist(),
            "early is bound": self.early.state is accelerator.state,
            "batches": len(self.get_eval_dataloader()),
        }
        with torch.no_grad():
            target = self.teacher(**inputs).logits
        outputs = model(**inputs)
        loss = outputs.loss + (outputs.logits - target).float().pow(2).mean()
        return (loss, outputs) if return_outputs else loss

    def train(self, *args: Any, **options: Any) -> Any:
        output = super().train(*args, **options)
        del self.beside  # bound to its process group
        return output


def make_distilling(directory: Path, **options: Any) -> Distilling:
    return Distilling(
        make_model(dropout=0.0).eval().requires_grad_(False),
        model=make_model(dropout=0.0),
        args=make_args(raytrainer, directory, max_steps=2, **options),
        train_dataset=make_samples(),
    )


def before_training(trainer: Distilling) -> dict[str, Any]:
    """What a script finds on a trainer that has not trained."""
    accelerator = trainer.accelerator
    accelerator.wait_for_everyone()
    return {
        "is main": accelerator.is_main_process,
        "processes": accelerator.num_processes,
        "batches": len(trainer.get_eval_dataloader()),
        "gathered": accelerator.gather(torch.tensor([accelerator.process_index])).tolist(),
        "joined": dist.is_initialized(),
    }


def main(target: Path) -> None:
    order: list[str] = []
    args = make_args(raytrainer, target.parent / "args", num_ranks=2)
    with args.main_process_first():
        marker = target.parent / "marker"
        order.append("first" if not marker.exists() else "second")
        marker.touch()
    trainer = make_distilling(target.parent, num_ranks=2)
    before = before_training(trainer)
    trainer.train()
    orders: list[Any] = [None, None]
    dist.all_gather_object(orders, order)
    if trainer.accelerator.is_main_process:
        target.write_text(json.dumps({"before": before, "seen": trainer.seen, "order": orders}))
    dist.barrier()  # If a rank exits while the other is still working, gloo aborts the other.


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
