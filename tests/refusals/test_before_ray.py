"""Bad input to a trainer with two Ray workers is refused by the driver, with a clear message, before Ray starts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM

import raytrainer
from raytrainer.driver import group_start
from raytrainer.errors import CheckpointError, ConfigurationError
from tests.parity.twins import make_model, make_samples


class Plain(torch.nn.Module):
    """A model without a config that could give its sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
        raise NotImplementedError


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        yield from make_samples()


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        pytest.fail("Ray was about to start")

    monkeypatch.setattr(group_start, "connect", refuse)


def train(directory: Path, resume: Any = None, setup: Any = None, **changes: Any) -> None:
    parts = {"model": make_model(), "train_dataset": make_samples(), "eval_dataset": None}
    options: dict[str, Any] = {"num_workers": 2, "use_cpu": True, "max_steps": 2, "disable_tqdm": True}
    for name, value in changes.items():
        (parts if name in parts else options)[name] = value
    args = raytrainer.TrainingArguments(output_dir=str(directory / "out"), **options)
    trainer = raytrainer.Trainer(args=args, **parts)
    if setup is not None:
        setup(trainer)
    trainer.train(resume_from_checkpoint=resume)


def rename(old: str, new: str) -> list[dict[str, torch.Tensor]]:
    return [{new if name == old else name: value for name, value in row.items()} for row in make_samples()]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"learning_rat": 1e-3}, r"learning_rat.*learning_rate", id="unknown_argument"),
        pytest.param(
            {"load_best_model_at_end": True, "eval_strategy": "no"},
            r"load_best_model_at_end",
            id="best_model",
        ),
        pytest.param({"eval_strategy": "steps"}, r"eval_dataset", id="no_eval_dataset"),
        pytest.param({"train_dataset": None}, r"train_dataset", id="no_train_dataset"),
        pytest.param(
            {"train_dataset": Stream(), "max_steps": -1}, r"max_steps", id="stream_without_max_steps"
        ),
        pytest.param(
            {"train_dataset": [{"text": "a", "id": 3}] * 8},
            r"text.*input_ids",
            id="no_column_that_forward_takes",
        ),
        pytest.param(
            {"deepspeed": {"zero_optimization": {"stage": 4}}}, r"stage 4 does not exist", id="no_such_stage"
        ),
        pytest.param(
            {
                "deepspeed": {"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}},
                "model": Plain(),
            },
            r"no hidden_size",
            id="auto_without_a_source",
        ),
        pytest.param(
            {"fsdp": "full_shard", "deepspeed": {"zero_optimization": {"stage": 3}}},
            r"both shard",
            id="fsdp_and_deepspeed",
        ),
        pytest.param(
            {"fsdp": "hybrid_shard", "fsdp_config": {"hybrid_shard_size": 2}},
            r"over 2 workers in groups of 2",
            id="too_few_workers_for_the_mesh",
        ),
        pytest.param(
            {"setup": lambda trainer: setattr(trainer, "my_lock", threading.Lock())},
            r"my_lock",
            id="unpicklable",
        ),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigurationError, TypeError), match=rf"(?s){words}"):
        train(tmp_path, **changes)


def test_another_number_of_workers_in_scaling_config_is_refused(tmp_path: Path) -> None:
    from ray.train import ScalingConfig

    with pytest.raises(ConfigurationError, match=r"(?s)num_workers=2.*num_workers=3"):
        raytrainer.Trainer(
            model=make_model(),
            args=raytrainer.TrainingArguments(output_dir=str(tmp_path), num_workers=2),
            train_dataset=make_samples(),
            scaling_config=ScalingConfig(num_workers=3),
        )


@pytest.mark.parametrize("what", ["missing", "empty", "no_checkpoint", "nothing_to_resume", "other_model"])
def test_what_cannot_be_resumed_is_refused(tmp_path: Path, what: str) -> None:
    target = tmp_path / "given"
    resume: Any = str(target)
    words = {
        "missing": "does not exist",
        "empty": "is an empty directory",
        "no_checkpoint": "is not a checkpoint",
        "nothing_to_resume": "No valid checkpoint found",
        "other_model": r"(?s)embed_tokens|size|shape",
    }[what]
    if what in ("empty", "no_checkpoint"):
        target.mkdir()
    if what == "no_checkpoint":
        (target / "notes.txt").write_text("hello")
    if what == "nothing_to_resume":
        resume = True
    if what == "other_model":
        small = LlamaConfig(
            vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
        train(tmp_path, model=LlamaForCausalLM(small), num_workers=0, save_strategy="steps", save_steps=2)
        resume = str(tmp_path / "out" / "checkpoint-2")
    with pytest.raises(CheckpointError, match=words):
        train(tmp_path, resume=resume)


def test_an_output_dir_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file is in the way")
    with pytest.raises(ConfigurationError, match="output_dir"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"fsdp_config": {"transformer_layer_cls_to_wrap": "Block"}},
            "no module of class Block.*LlamaDecoderLayer",
        ),
        ({"fp16": True}, "fp16"),
        (
            {
                "setup": lambda trainer: setattr(
                    trainer, "optimizer", torch.optim.SGD(trainer.model.parameters())
                )
            },
            "optimizer_cls_and_kwargs",
        ),
    ],
)
def test_what_cannot_be_sharded_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        train(tmp_path, **{"fsdp": True, "use_cpu": "fp16" not in changes, **changes})
