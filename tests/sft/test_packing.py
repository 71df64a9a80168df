"""Packing: which examples share a block, how much is wasted, and that they do not attend to each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raytrainer import ConfigurationError, EngagementError, Trainer, TrainingArguments
from raytrainer.sft.block_isolation import check_isolation
from raytrainer.sft.collator import CausalCollator
from raytrainer.sft.packed_stream import PackedStream
from raytrainer.sft.packing import STRATEGIES, plan_packing
from tests.sft.words import losses, make_args, make_model, make_tokenizer, make_trainer, samples, texts

SHARED = (
    "num_workers",
    "optim",
    "learning_rate",
    "max_steps",
    "use_cpu",
    "logging_steps",
    "save_strategy",
    "disable_tqdm",
)
LENGTHS = st.lists(st.integers(0, 40), max_size=60)


@given(lengths=LENGTHS, size=st.integers(1, 32), strategy=st.sampled_from(STRATEGIES))
def test_every_token_is_in_one_block_or_counted_as_cut_off(lengths, size, strategy):
    plan = plan_packing(lengths, size, strategy)
    tokens = [
        (row, start + place)
        for row, start, length in zip(plan.rows, plan.starts, plan.lengths, strict=True)
        for place in range(length)
    ]
    kept = [
        (row, at)
        for row, length in enumerate(lengths)
        for at in range(length)
        if strategy != "bfd" or at < size
    ]
    assert sorted(tokens) == kept
    assert plan.report.num_cut_off == sum(lengths) - len(kept)


@given(lengths=LENGTHS, size=st.integers(1, 32), strategy=st.sampled_from(STRATEGIES))
def test_no_block_is_empty_or_over_full(lengths, size, strategy):
    plan = plan_packing(lengths, size, strategy)
    filled = [int(plan.lengths[block].sum()) for block in plan.blocks()]
    assert all(0 < tokens <= size for tokens in filled)
    assert sum(size - tokens for tokens in filled) == plan.report.num_unused


def test_best_fit_decreasing_fills_the_fullest_block_with_room():
    plan = plan_packing([5, 4, 3, 3, 2, 1], 8, "bfd")
    assert [plan.lengths[block].tolist() for block in plan.blocks()] == [[5, 3], [4, 3, 1], [2]]


def test_wrapped_leaves_room_in_the_last_block_only():
    plan = plan_packing([5, 4, 3], 8, "wrapped")
    assert [plan.lengths[block].tolist() for block in plan.blocks()] == [[5, 3], [1, 3]]
    assert plan.report.num_unused == 4


def test_a_stream_has_the_blocks_of_a_dataset_that_is_wrapped():
    rows = [{"input_ids": list(range(n)), "labels": list(range(n))} for n in (5, 4, 11, 1)]
    blocks = list(PackedStream(rows, 8))
    plan = plan_packing([5, 4, 11, 1], 8, "wrapped")
    assert [block["seq_lengths"] for block in blocks] == [
        plan.lengths[part].tolist() for part in plan.blocks()
    ]
    assert [token for block in blocks for token in block["input_ids"]] == [
        t for row in rows for t in row["input_ids"]
    ]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("is_flat", [False, True])
def test_logits_of_a_block_are_those_of_its_examples_alone(attention, is_flat):
    model = make_model(attn_implementation=attention, use_cache=False).eval()
    rows = [
        {"input_ids": list(range(5, 17)), "seq_lengths": [7, 5]},
        {"input_ids": [8, 9, 20], "seq_lengths": [3]},
    ]
    batch = CausalCollator(pad_token_id=0, restarts_positions=True, is_flat=is_flat)(rows)
    assert batch["input_ids"].shape == ((1, 15) if is_flat else (2, 12))
    with torch.no_grad():
        packed = model(**batch).logits
        alone = [
            model(torch.tensor([ids])).logits[0]
            for ids in (list(range(5, 12)), list(range(12, 17)), [8, 9, 20])
        ]
    pieces = (
        [packed[0, :7], packed[0, 7:12], packed[0, 12:]]
        if is_flat
        else [packed[0, :7], packed[0, 7:], packed[1, :3]]
    )
    for piece, expected in zip(pieces, alone, strict=True):
        assert torch.allclose(piece, expected, atol=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_loss_of_blocks_is_that_of_their_pieces_one_by_one(strategy, tmp_path: Path):
    packed = make_trainer(tmp_path / "a", packing=True, packing_strategy=strategy, max_length=20, max_steps=1,
                          per_device_train_batch_size=64)  # fmt: skip
    assert max(len(row["seq_lengths"]) for row in packed.train_dataset) > 1
    packed.train()
    pieces = []
    for row in packed.train_dataset:
        ends = np.cumsum(row["seq_lengths"]).tolist()
        pieces += [row["input_ids"][end - n : end] for end, n in zip(ends, row["seq_lengths"], strict=True)]
    plain = Trainer(
        model=make_model(),
        args=TrainingArguments(
            **{name: getattr(packed.args, name) for name in SHARED},
            output_dir=str(tmp_path / "b"),
            per_device_train_batch_size=256,
        ),
        train_dataset=[{"input_ids": ids, "labels": ids} for ids in pieces],
        data_collator=CausalCollator(pad_token_id=0),
    )
    plain.train()
    assert losses(packed) == pytest.approx(losses(plain), abs=1e-6)
    for name, value in plain.model.state_dict().items():
        assert torch.allclose(packed.model.state_dict()[name], value, atol=1e-6), name


def test_evaluation_of_blocks_has_the_loss_of_their_examples(tmp_path: Path):
    found = {}
    for packing in (True, False):
        trainer = make_trainer(
            tmp_path / str(packing), eval_packing=packing, max_length=30, eval_dataset=texts(20)
        )
        assert ("eval" in trainer.packing_reports) is packing
        metrics = trainer.evaluate()
        found[packing] = [metrics["eval_loss"], metrics["eval_mean_token_accuracy"]]
    assert found[True] == pytest.approx(found[False], abs=1e-6)


def test_wasted_places_are_reported(tmp_path: Path):
    trainer = make_trainer(tmp_path, packing=True, max_length=20)
    report = trainer.packing_reports["train"]
    places = len(trainer.train_dataset) * 20
    assert report.num_unused == places - sum(len(ids) for ids, _ in samples(trainer)) > 0
    assert f"{report.num_unused} positions unused" in str(report)


def test_the_same_rows_give_the_same_blocks(tmp_path: Path):
    options = {"packing": True, "max_length": 20, "shuffle_dataset": True}
    torch.manual_seed(1)
    first = samples(make_trainer(tmp_path / "a", **options))
    torch.manual_seed(2)
    assert samples(make_trainer(tmp_path / "b", **options)) == first


class Leaky(torch.nn.Module):
    """Adds up all tokens that came before."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(40, 8)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.words

    def forward(self, input_ids, **kwargs):
        return type("Outputs", (), {"logits": self.words(input_ids).cumsum(dim=1)})


def test_a_model_whose_examples_see_each_other_is_refused():
    check_isolation(make_model(use_cache=False), torch.device("cpu"), is_flat=False)
    with pytest.raises(EngagementError, match="does not keep the examples of blocks apart"):
        check_isolation(Leaky(), torch.device("cpu"), is_flat=False)


def test_a_cache_which_would_let_examples_see_each_other_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="use_cache=True"):
        make_args(tmp_path, packing=True, use_cache=True)


def test_a_collator_of_ones_own_does_not_know_blocks(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="data_collator= was given with packing"):
        make_trainer(tmp_path, packing=True, data_collator=lambda rows: rows)


def test_rows_are_filled_up_to_a_multiple():
    batch = CausalCollator(pad_token_id=0, pad_to_multiple_of=8)([{"input_ids": [5, 6, 7]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7, *[-100] * 5]]
    assert batch["attention_mask"].sum() == 3


def test_the_tokenizer_that_ends_a_text_fills_rows_up_where_nothing_else_does(tmp_path: Path):
    tokenizer = make_tokenizer(pad_token=None)
    trainer = make_trainer(tmp_path, processing_class=tokenizer)
    assert trainer.data_collator.pad_token_id == tokenizer.eos_token_id
