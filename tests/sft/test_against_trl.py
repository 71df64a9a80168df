"""Equality with TRL's SFTTrainer: the same seed gives the same samples, losses, norms and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.sft.words import answers, chats, make_args, make_model, make_tokenizer, make_trainer, texts

trl = pytest.importorskip("trl")

NAMES = ("loss", "grad_norm", "learning_rate", "num_tokens")
TOLERANCE = 2e-6  # sums in fp32 in another order: the oracle adds up log-probabilities in pieces


def train_theirs(directory: Path, dataset: Any, *, peft_config: Any = None, **options: Any) -> Any:
    ours = make_args(directory, **options)
    said = {"gradient_checkpointing" if name == "activation_checkpointing" else name for name in options}
    said |= {
        "per_device_train_batch_size",
        "max_steps",
        "logging_steps",
        "learning_rate",
        "save_strategy",
        "optim",
    }
    values = {name: getattr(ours, name) for name in said if name != "num_workers"}
    trainer = trl.SFTTrainer(
        model=make_model(),
        args=trl.SFTConfig(
            output_dir=str(directory),
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            **{"gradient_checkpointing": False, **values},
        ),
        train_dataset=dataset,
        processing_class=make_tokenizer(),
        peft_config=peft_config,
    )
    trainer.train()
    return trainer


def rows(trainer: Any) -> list[list[float]]:
    logged = [log for log in trainer.state.log_history if "loss" in log]
    return [[log[name] for name in NAMES] for log in logged]


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "texts": (texts, {}),
    "cut": (texts, {"max_length": 7}),
    "completions": (answers, {"gradient_accumulation_steps": 2}),
    "all-of-it": (answers, {"completion_only_loss": False}),
    "chats": (chats, {}),
    "assistant": (chats, {"assistant_only_loss": True}),
    "shuffled": (texts, {"shuffle_dataset": True}),
    "dft": (texts, {"loss_type": "dft", "gradient_accumulation_steps": 2}),
    "packed": (texts, {"packing": True, "max_length": 24, "num_train_epochs": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_norms_and_weights_are_those_of_trl(case: str, tmp_path: Path) -> None:
    make, options = CASES[case]
    ours = make_trainer(tmp_path / "ours", make(), **options)
    ours.train()
    theirs = train_theirs(tmp_path / "theirs", make(), **options)
    assert len(rows(ours)) == len(rows(theirs)) == 4
    for mine, other in zip(rows(ours), rows(theirs), strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE, rel=1e-5)
    start = make_model().state_dict()
    for name, value in theirs.model.state_dict().items():
        assert torch.allclose(ours.model.state_dict()[name], value, rtol=0, atol=2e-5), name
        assert not torch.equal(value, start[name]), f"{name} was not trained"
