"""A loader fetches one micro-batch ahead, so that what draws random numbers draws them as in transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    DataCollatorForLanguageModeling,
    DefaultDataCollator,
)

import raytrainer
from raytrainer.data.micro_batches import MicroBatches
from tests.parity.twins import make_args, rows

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(95))]


class MaskedModel(BertForMaskedLM):
    accepts_loss_kwargs = False  # it ignores the count, which transformers does not notice


def masked_model() -> MaskedModel:
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return MaskedModel(BertConfig(vocab_size=100, max_position_embeddings=40, **sizes))


def train(
    library: Any, directory: Path, resume: Path | None = None, *, collator: Any = None, **options: Any
) -> Any:
    """Train a model with dropout on tokens that the collator masks at random, or else on those that it is given."""
    directory.mkdir(exist_ok=True)
    vocabulary = directory / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    generator = torch.Generator().manual_seed(0)
    samples = [{"input_ids": torch.randint(5, 100, (12,), generator=generator).tolist()} for _ in range(30)]
    if collator is not None:
        samples = [{**sample, "labels": sample["input_ids"]} for sample in samples]
    trainer = library.Trainer(
        model=masked_model(),
        args=make_args(library, directory, **{"num_train_epochs": 2, **options}),
        train_dataset=samples,
        eval_dataset=samples[:8],
        data_collator=collator
        or DataCollatorForLanguageModeling(BertTokenizerFast(vocab_file=str(vocabulary))),
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"eval_strategy": "steps", "eval_steps": 3},
    ],
    ids=["one micro-batch", "accumulated", "evaluated in between"],
)
def test_random_masks_and_dropout_are_those_of_transformers(options: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = (train(one, tmp_path / one.__name__, **options) for one in (raytrainer, transformers))
    assert [row[1] for row in rows(ours)] == pytest.approx([row[1] for row in rows(theirs)], abs=1e-6)
    assert len({row[1] for row in rows(ours)}) == ours.state.global_step
    for name, value in theirs.model.state_dict().items():
        assert torch.allclose(ours.model.state_dict()[name], value, rtol=0, atol=1e-5), name


def test_a_model_draws_like_in_transformers_beside_loading_processes_that_draw_nothing(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"dataloader_num_workers": 2, "collator": DefaultDataCollator()}
    ours, theirs = (train(one, tmp_path / one.__name__, **options) for one in (raytrainer, transformers))
    assert [row[1] for row in rows(ours)] == pytest.approx([row[1] for row in rows(theirs)], abs=1e-6)
    assert len({row[1] for row in rows(ours)}) == ours.state.global_step


@pytest.mark.parametrize("step", [1, 7, 8, 9, 16])
def test_a_run_resumes_bitwise_with_the_micro_batch_that_was_fetched_ahead(step: int, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 1}
    whole = train(raytrainer, tmp_path, **options)
    assert whole.state.global_step == 16
    saved = torch.load(tmp_path / f"checkpoint-{step}" / "rng_state.pth", weights_only=False)
    assert ("ahead" in saved) is (step not in (8, 16)), "the last micro-batch of an epoch has none after it"
    resumed = train(raytrainer, tmp_path, tmp_path / f"checkpoint-{step}", **options)
    assert rows(resumed) == rows(whole)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_transformers_resumes_from_a_random_state_with_one_ahead(tmp_path: Path) -> None:
    train(raytrainer, tmp_path, save_strategy="steps", save_steps=4)
    assert "ahead" in torch.load(tmp_path / "checkpoint-4" / "rng_state.pth", weights_only=False)
    resumed = train(transformers, tmp_path, tmp_path / "checkpoint-4")
    assert resumed.state.global_step == 16


def fetched(log: list[int], count: int) -> Iterator[int]:
    for index in range(count):
        log.append(index)
        yield index


@pytest.mark.parametrize(("looks_ahead", "expected"), [(True, 2), (False, 1)])
def test_an_item_is_fetched_before_the_one_before_it_is_used(looks_ahead: bool, expected: int) -> None:
    log: list[int] = []
    batches = MicroBatches(fetched(log, 3), str, looks_ahead=looks_ahead)
    assert next(batches) == "0"
    assert len(log) == expected
    assert list(batches) == ["1", "2"]
    assert list(batches) == []


def test_an_item_that_cannot_be_fetched_raises_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise KeyError("gone")

    batches = MicroBatches(items(), str, looks_ahead=True)
    assert next(batches) == "0"
    with pytest.raises(KeyError, match="gone"):
        next(batches)
