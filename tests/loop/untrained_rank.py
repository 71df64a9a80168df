"""Trains under torchrun with optimizers and models of which a part does not train; writes what each rank heard as JSON.

Usage: untrained_rank.py TARGET
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from raytrainer import Trainer, TrainingArguments
from tests.loop.test_untrained import ROWS, Model, sgd

OPTIONS: dict[str, dict[str, Any]] = {
    "ddp": {"ddp_find_unused_parameters": True},
    "fsdp": {"fsdp": "full_shard", "fsdp_config": {"transformer_layer_cls_to_wrap": ["Linear"]}},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
}


class Wide(nn.Module):
    """Wide enough for two shards. Has a layer that the loss does not depend on, or on rank 1 alone, if asked to."""

    def __init__(self, *, spare: str = "") -> None:
        super().__init__()
        self.layer = nn.Linear(2, 4)
        self.is_on_rank_1 = spare == "on rank 0"
        if spare:
            self.spare = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.is_on_rank_1 and dist.get_rank() == 1:
            x = self.spare(x)
        return {"loss": (self.layer(x).sum(1) - labels).pow(2).mean()}


class MakesItself(Trainer):
    """Its hook makes the optimizer of the parameters that it finds."""

    names: tuple[str, ...] = ("layer.weight", "layer.bias")

    def create_optimizer(self, model: Any = None) -> Any:
        named = (model if model is not None else self.model).named_parameters()
        self.optimizer = sgd(*(one for name, one in named if name.endswith(self.names)))
        return self.optimizer


class MakesPart(MakesItself):
    names = ("layer.weight",)


class Mistaken(Trainer):
    """Its hook makes the optimizer of another model."""

    def create_optimizer(self, model: Any = None) -> Any:
        self.optimizer = sgd(*Wide().parameters())
        return self.optimizer


class MistakenSchedule(Trainer):
    """Its hook makes the schedule of another optimizer."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        other = sgd(*self.model.parameters())
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(other, lambda step: 1.0)
        return self.lr_scheduler


def cases(kind: str) -> dict[str, tuple[type[Trainer], nn.Module, Any]]:
    """Class, model and optimizer by name."""

    def given(*names: str) -> tuple[type[Trainer], nn.Module, Any]:
        model = Wide()
        return Trainer, model, sgd(*(one for name, one in model.named_parameters() if name in names))

    found = {
        "given": given("layer.weight", "layer.bias"),
        "given in part": given("layer.weight"),
        "made": (MakesItself, Wide(), None),
        "made in part": (MakesPart, Wide(), None),
        "of another model": (Mistaken, Wide(), None),
        "schedule of another": (MistakenSchedule, Wide(), None),
        "spare": (Trainer, Wide(spare="everywhere"), None),
        "spare on rank 0": (Trainer, Wide(spare="on rank 0"), None),
        "too small": (Trainer, Model(), None),
    }
    if kind != "ddp":
        del found["spare on rank 0"]  # a unit of shards is gathered by all ranks, or by none
    return found


class Heard(logging.Handler):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def run(kind: str, name: str, directory: Path) -> dict[str, Any]:
    """What one rank heard of one case, and which of its parameters changed."""
    torch.manual_seed(0)
    cls, model, optimizer = cases(kind)[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    args = TrainingArguments(
        str(directory),
        num_workers=2,
        use_cpu=True,
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=0.1,
        save_strategy="no",
        ddp_timeout=40,
        report_to="none",
        disable_tqdm=True,
        **OPTIONS[kind],
    )
    heard = Heard()
    logging.getLogger("raytrainer").addHandler(heard)
    try:
        trainer = cls(model, args, train_dataset=ROWS, optimizers=(optimizer, None))
        trainer.train()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        logging.getLogger("raytrainer").removeHandler(heard)
    after = trainer._export_weights()
    changed = [key for key, value in before.items() if after and not torch.equal(value, after[key])]
    told = [line for line in heard.lines if "no gradient" in line or "does not have" in line]
    return {"changed": changed, "told": told, "wrapper": type(trainer.model_wrapped).__name__}


def main() -> None:
    """All cases."""
    target = Path(sys.argv[1])
    torch.set_num_threads(1)
    mine = {
        kind: {name: run(kind, name, target.parent / f"{kind}-{name}") for name in cases(kind)}
        for kind in OPTIONS
    }
    ranks: list[Any] = [None, None]
    dist.all_gather_object(ranks, mine)
    if dist.get_rank() == 0:
        target.write_text(json.dumps(ranks))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
