"""One run for any number of ranks: packed, with an odd number of evaluation rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.sft.words import make_trainer, texts

NAMES = ("loss", "grad_norm", "mean_token_accuracy", "num_tokens", "eval_loss", "eval_mean_token_accuracy")


WAYS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"fsdp": True},
    "zero2": {"deepspeed": {"zero_optimization": {"stage": 2}}},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
}
"""How a model is spread over ranks."""


def adapter() -> Any:
    return pytest.importorskip("peft").LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def fine_tune(directory: Path, *, resume: str | None = None, **options: Any) -> Any:
    trainer = make_trainer(
        directory,
        texts(40),
        packing=True,
        eval_packing=False,
        max_length=24,
        eval_dataset=texts(7),
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=2,
        save_strategy="steps",
        save_steps=1,
        **options,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def logged(trainer: Any) -> list[list[float]]:
    found = [[log[name] for name in NAMES if name in log] for log in trainer.state.log_history]
    return [row for row in found if row]
