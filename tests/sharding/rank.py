"""Trains one configuration after the other under a launcher, and writes rank 0's results as JSON.

Usage: rank.py TARGET JSON, where JSON is a list of what launch.py makes of each run.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import transformers
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import raytrainer
from raytrainer import EngagementError
from raytrainer.checkpoint.sharded_weights import gather_state_dict
from tests.parity.twins import make_model, make_samples, rows

GLOBAL_BATCH = 12


class Probe(transformers.TrainerCallback):
    """Inspects, in the last step, what is really engaged."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.trainer: Any = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = list(kwargs["model"].parameters())
        engine = self.trainer.model_wrapped
        if hasattr(engine, "zero_optimization_stage"):
            self.seen = {
                "engine": type(engine).__name__,
                "stage": engine.zero_optimization_stage(),
                "dtensors": 0,
                "dtypes": [
                    str(parameters[0].dtype),
                    str(
                        (
                            getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)
                            or engine.optimizer.single_partition_of_fp32_groups
                        )[0].dtype
                    ),
                ],
                "offloads": [
                    bool(getattr(engine.optimizer, name, False))
                    for name in ("offload_optimizer", "offload_param")
                ],
                "was_cut_when_made": self.trainer.was_cut_when_made,
                "elements": sum(getattr(p, "ds_numel", p.numel()) for p in parameters),
                "local": sum(
                    p.ds_tensor.numel() if hasattr(p, "ds_tensor") else p.numel() for p in parameters
                ),
            }
            return
        self.seen = {
            "dtensors": sum(isinstance(p, DTensor) for p in parameters),
            "parameters": len(parameters),
            "elements": sum(p.numel() for p in parameters),
            "local": sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in parameters),
            "local_gradients": sum(
                p.grad.to_local().numel() if isinstance(p.grad, DTensor) else p.grad.numel()
                for p in parameters
                if p.grad is not None
            ),
            "is_fsdp": isinstance(kwargs["model"], FSDPModule),
            "cut_by_zero": sum(hasattr(p, "ds_tensor") for p in parameters),
            "mesh": list(parameters[0].device_mesh.shape) if isinstance(parameters[0], DTensor) else [],
        }

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        moments = [
            value
            for entries in optimizer.state.values()
            for name, value in entries.items()
            if name.startswith("exp_avg")
        ]
        self.seen["local_moments"] = sum(
            m.to_local().numel() if isinstance(m, DTensor) else m.numel() for m in moments
        )


class Drift(transformers.TrainerCallback):
    """Changes one weight on one rank after the second step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2 and args.process_index == 1:
            weight = kwargs["model"].model.layers[1].mlp.up_proj.weight
            with torch.no_grad():
                weight.view(-1)[0] += 0.01


def make_classifier() -> transformers.BertForSequenceClassification:
    """Takes ``num_items_in_batch``, hands it to its layers, and ignores it."""
    torch.manual_seed(5)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=100,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=3,
        )
    )


class Watched(raytrainer.Trainer):
    """Looks at the model as it is made, before the backend wraps it."""

    was_cut_when_made = False

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        self.was_cut_when_made = any(hasattr(p, "ds_id") for p in model.parameters())
        super()._move_model_to_device(model, device)


def make_labelled(count: int) -> list[dict[str, Any]]:
    """The same token sequences, each with a class."""
    return [
        {"input_ids": sample["input_ids"], "labels": number % 3}
        for number, sample in enumerate(make_samples(count))
    ]


def train(run: dict[str, Any], *, num_workers: int) -> dict[str, Any]:
    """One configuration.

    Args:
        run: What ``launch.py`` makes of it.
        num_workers: Ranks of the launcher, or 0 for this process alone.
    """
    world_size = max(1, num_workers)
    options = {
        "output_dir": run["output_dir"],
        "num_workers": num_workers,
        "per_device_train_batch_size": GLOBAL_BATCH // world_size // 2,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "max_steps": 6,
        "save_strategy": "no",
        "eval_strategy": "steps",
        "eval_steps": 3,
        **run["options"],
    }
    probe = Probe()
    trainer = Watched(
        model=run["model"] or (make_classifier() if run["classifies"] else make_model(dropout=0.0)),
        args=raytrainer.TrainingArguments(**options),
        train_dataset=make_labelled(run["num_samples"])
        if run["classifies"]
        else make_samples(run["num_samples"]),
        eval_dataset=make_labelled(10) if run["classifies"] else make_samples(10),
        callbacks=[probe],
    )
    probe.trainer = trainer
    if run["drifts"]:
        trainer.add_callback(Drift())
    # A model that is cut must never be loaded whole.
    is_cut = run["model"] and "fsdp" in run["options"]
    forbids = patch.object(transformers.LlamaForCausalLM, "from_pretrained", None)
    try:
        with forbids if is_cut else contextlib.nullcontext():
            trainer.train(resume_from_checkpoint=run.get("resume"))
    except EngagementError as error:
        return {"error": str(error), "step": trainer.state.global_step}
    weights = gather_state_dict(trainer.model)
    own = torch.cat(
        [p.detach().reshape(-1) for p in trainer.model.parameters() if not isinstance(p, DTensor)]
        or [torch.zeros(1)]
    )
    first = own.clone()
    if dist.is_initialized():
        dist.broadcast(first, src=0)
    are_equal = torch.tensor(int(torch.equal(own, first)))
    if dist.is_initialized():
        dist.all_reduce(are_equal, op=dist.ReduceOp.MIN)
    model = trainer.model_wrapped
    optimizer: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    return {
        "optimizer": optimizer.describe() if hasattr(optimizer, "describe") else type(optimizer).__name__,
        "rows": rows(trainer),
        "eval": [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log],
        "weights": {name: value.tolist() for name, value in weights.items()},
        "ranks_are_equal": bool(are_equal),
        "is_ddp": isinstance(model, DistributedDataParallel),
        "is_compiled": trainer.model._compiled_call_impl is not None,
        **probe.seen,
    }


def main() -> None:
    """All configurations."""
    torch.set_num_threads(1)
    num_ranks = int(os.environ["WORLD_SIZE"])
    results = {run["name"]: train(run, num_workers=num_ranks) for run in json.loads(sys.argv[2])}
    if not dist.is_initialized() or dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))
    if dist.is_initialized():
        dist.barrier()


if __name__ == "__main__":
    main()
