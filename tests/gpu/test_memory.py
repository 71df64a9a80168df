"""A batch that a GPU has no memory for becomes smaller, at the same global batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer
from tests.gpu.twins import make_gpu_trainer
from tests.parity.twins import rows

BATCH, LENGTH, VOCABULARY = 64, 512, 8000
ROOM = 1.5 * 2**30
"""The logits of all 64 sequences alone take 1 GB, and their gradients again as much."""


@pytest.fixture
def little_memory() -> Iterator[None]:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + ROOM) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def make_model() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )


def make_samples() -> list[dict[str, torch.Tensor]]:
    tokens = torch.randint(0, VOCABULARY, (3 * BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in tokens]


class Sizes(transformers.TrainerCallback):
    """The sizes of micro-batches that steps were taken with."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, int]] = set()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.add((args.per_device_train_batch_size, args.gradient_accumulation_steps))


def train(directory: Path, size: int, **options: Any) -> tuple[Any, Sizes]:
    sizes = Sizes()
    trainer = make_gpu_trainer(
        raytrainer,
        directory,
        model=make_model(),
        samples=make_samples(),
        callbacks=[sizes],
        max_steps=3,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=BATCH // size,
        **options,
    )
    trainer.train()
    return trainer, sizes


@pytest.mark.usefixtures("little_memory")
def test_a_batch_without_room_becomes_smaller_and_gives_the_same_numbers(tmp_path: Path) -> None:
    found, sizes = train(tmp_path / "found", BATCH, auto_find_batch_size=True)
    ((size, accumulation),) = sizes.seen
    assert size < BATCH
    assert size * accumulation == BATCH
    given, _ = train(tmp_path / "given", size)
    for mine, other in zip(rows(found), rows(given), strict=True):
        assert mine == pytest.approx(other, abs=1e-5, rel=1e-5)
