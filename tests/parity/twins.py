"""The same model, data and arguments for both libraries, and results of a run that can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer

TOLERANCE = 1e-6  # fp32 sums in another order
LIBRARIES: dict[str, Any] = {"ours": raytrainer, "theirs": transformers}


def make_samples(count: int = 50) -> list[dict[str, torch.Tensor]]:
    """Token sequences whose labels differ in length, so that batches differ in their number of targets."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(count):
        tokens = torch.randint(0, 100, (16,), generator=generator)
        labels = tokens.clone()
        labels[int(torch.randint(5, 17, (1,), generator=generator)) :] = -100
        samples.append({"input_ids": tokens, "labels": labels})
    return samples


def make_model(dropout: float = 0.1) -> transformers.LlamaForCausalLM:
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        attention_dropout=dropout,
    )
    return transformers.LlamaForCausalLM(config)


def make_args(library: Any, directory: Path, **options: Any) -> Any:
    """Arguments for one process, or for ranks that a launcher started (``num_ranks``)."""
    num_ranks = options.pop("num_ranks", 0)
    if library is raytrainer:
        options["num_workers"] = num_ranks
    return library.TrainingArguments(
        **{
            "output_dir": str(directory),
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "learning_rate": 1e-2,
            "save_strategy": "no",
            **options,
        }
    )


def make_trainer(library: Any, directory: Path, *, model: Any = None, **options: Any) -> Any:
    return library.Trainer(
        model=make_model() if model is None else model,
        args=make_args(library, directory, **options),
        train_dataset=make_samples(),
        eval_dataset=make_samples(10),
    )


def rows(trainer: Any) -> list[tuple[int, float, float, float, float]]:
    """Step, loss, gradient norm, learning rate and epoch of every logged step."""
    return [
        (log["step"], log["loss"], log["grad_norm"], log["learning_rate"], log["epoch"])
        for log in trainer.state.log_history
        if "loss" in log
    ]


def eval_losses(trainer: Any) -> list[tuple[int, float]]:
    return [(log["step"], log["eval_loss"]) for log in trainer.state.log_history if "eval_loss" in log]


def assert_equal_runs(ours: Any, theirs: Any) -> None:
    """Assert equal logs and weights, of runs that took steps and changed the weights."""
    assert len(rows(ours)) == len(rows(theirs)) == ours.state.global_step == theirs.state.global_step > 0
    for mine, other in zip(rows(ours), rows(theirs), strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)
    start = make_model().state_dict()
    assert ours.model.state_dict().keys() == theirs.model.state_dict().keys() == start.keys()
    for name, value in theirs.model.state_dict().items():
        assert torch.allclose(ours.model.state_dict()[name], value, rtol=0, atol=TOLERANCE), name
        assert not torch.equal(value, start[name]), f"{name} was not trained"
