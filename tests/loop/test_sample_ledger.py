"""A run knows which samples each of its steps used, and whether an epoch used each of them once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import transformers
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler

import raytrainer
from raytrainer import EngagementError
from raytrainer.data.ledger_files import NAME, LedgerLine, append_line, new_attempt, read_epoch
from raytrainer.data.samplers import SeededRandomSampler
from raytrainer.data.use_rule import UseRule, faults_of
from raytrainer.loop import sample_ledger

COUNT = 11
"""Micro-batches of 2: 6 in an epoch, the last of which is short."""


class Rows(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.tensor([float(index)]), "labels": torch.tensor([1.0])}


class Stream(IterableDataset[dict[str, Any]]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (Rows()[index] for index in range(COUNT))


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layer(x) - labels).square().mean()}


def ledger(directory: Path, epoch: int = 0) -> dict[int, list[int]]:
    """Step -> indices that were used."""
    uses = read_epoch(directory, epoch)
    return {
        step: [one for line in use.lines.values() for one in line.samples]
        for step, use in sorted(uses.items())
    }


def train(
    directory: Path,
    dataset: Any = None,
    *callbacks: Any,
    kind: type[raytrainer.Trainer] = raytrainer.Trainer,
    resume: Any = None,
    **options: Any,
) -> list[str]:
    """Train in this process, and return what was said."""
    args = raytrainer.TrainingArguments(
        **{
            "output_dir": str(directory),
            "num_workers": 0,
            "debug": "sample_ledger",
            "per_device_train_batch_size": 2,
            "num_train_epochs": 2,
            "save_steps": 2,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            **options,
        }
    )
    trainer = kind(
        model=Model(),
        args=args,
        train_dataset=Rows() if dataset is None else dataset,
        callbacks=list(callbacks),
    )
    with patch.object(sample_ledger, "tell", wraps=sample_ledger.tell) as tell:
        trainer.train(resume_from_checkpoint=resume)
    return [call.args[1] for call in tell.call_args_list]


class Die(transformers.TrainerCallback):
    """Fails after a step, and what it did since the last checkpoint is lost."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise OSError("killed")


@pytest.mark.parametrize("processes", [0, 1])
def test_each_epoch_says_that_every_sample_was_used_once(processes: int, tmp_path: Path) -> None:
    said = train(tmp_path, dataloader_num_workers=processes)
    assert said == [
        f"sample ledger: epoch {epoch}: each of 11 samples was used once (6 steps on 1 worker)."
        for epoch in (0, 1)
    ]
    assert [len(ids) for ids in ledger(tmp_path).values()] == [2, 2, 2, 2, 2, 1]
    assert sorted(one for ids in ledger(tmp_path, 1).values() for one in ids) == list(range(COUNT))
    assert list(ledger(tmp_path, 1)) == list(range(7, 13))


def test_without_the_option_nothing_is_written(tmp_path: Path) -> None:
    assert train(tmp_path, debug="") == []
    assert not (tmp_path / NAME).exists()


def test_steps_that_are_taken_again_replace_those_that_were_lost(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="killed"):
        train(tmp_path, None, Die(3))
    assert list(ledger(tmp_path)) == [1, 2, 3]
    said = train(tmp_path, resume=True)
    assert said[0] == "sample ledger: epoch 0: each of 11 samples was used once (6 steps on 1 worker)."
    attempts = sorted(path.name for path in (tmp_path / NAME).iterdir())
    assert attempts == ["0001-from-step-0", "0002-from-step-2"]
    lines = [
        (path.parent.name, json.loads(line)["step"])
        for path in (tmp_path / NAME).rglob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert lines.count(("0001-from-step-0", 3)) == lines.count(("0002-from-step-2", 3)) == 1


class Twice(SeededRandomSampler):
    """Uses sample 4 in place of sample 7."""

    def __iter__(self) -> Iterator[int]:
        return (4 if index == 7 else index for index in super().__iter__())


class Wrong(raytrainer.Trainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return Twice(Rows(), 0)


def test_a_sample_that_was_lost_or_used_twice_stops_the_run_with_its_index(tmp_path: Path) -> None:
    expected = r"epoch 0 .*1 were never used \(7\).*1 were used more than once \(4 in step"
    with pytest.raises(EngagementError, match=expected):
        train(tmp_path, kind=Wrong)


def test_what_drop_last_leaves_out_is_no_fault(tmp_path: Path) -> None:
    said = train(tmp_path, dataloader_drop_last=True, num_train_epochs=1)
    assert said == [
        "sample ledger: epoch 0: each of 10 samples was used once, 1 left out (dataloader_drop_last) "
        "(5 steps on 1 worker)."
    ]


def test_of_a_stream_what_was_read_is_checked_and_the_rest_is_said(tmp_path: Path) -> None:
    said = train(tmp_path, Stream(), max_steps=8)
    assert said == [
        "sample ledger: it is checked that what was read of the stream was used; not whether the stream gave all of "
        "its data.",
        "sample ledger: epoch 0: each of 11 samples was used once (6 steps on 1 worker).",
        "sample ledger: epoch 1 was not finished; none of its 4 samples was used twice (2 steps on 1 worker).",
    ]


class StopEpoch(transformers.TrainerCallback):
    """Ends the first epoch between two micro-batches of its second step."""

    epochs = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epochs += 1

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_epoch_stop = self.epochs == 1 and state.global_step == 1


def test_an_epoch_that_a_callback_ends_is_checked_for_what_was_used(tmp_path: Path) -> None:
    said = train(tmp_path, None, StopEpoch(), gradient_accumulation_steps=2, num_train_epochs=1, max_steps=4)
    assert said == [
        "sample ledger: epoch 0 was not finished; none of its 4 samples was used twice (1 step on 1 worker).",
        "sample ledger: epoch 1: each of 11 samples was used once (3 steps on 1 worker).",
    ]


class Crops(Rows):
    """Makes two samples of each."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices for _ in range(2)]


def test_samples_that_a_dataset_makes_beside_those_that_it_has_are_not_counted(tmp_path: Path) -> None:
    said = train(tmp_path, Crops(), num_train_epochs=1)
    assert said == ["sample ledger: epoch 0: each of 11 samples was used once (6 steps on 1 worker)."]


@pytest.mark.parametrize("strategy", ["sequential", "group_by_length", "batch_rebalance"])
def test_every_strategy_uses_each_sample_once(strategy: str, tmp_path: Path) -> None:
    rows = [{**Rows()[index], "input_ids": list(range(1 + index % 3))} for index in range(COUNT)]
    said = train(
        tmp_path, rows, kind=TakesX, train_sampling_strategy=strategy, num_train_epochs=1, save_strategy="no"
    )
    assert said == ["sample ledger: epoch 0: each of 11 samples was used once (6 steps on 1 worker)."]


class TakesX(raytrainer.Trainer):
    """Its samples have lengths of their own."""

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        return collate_x


def collate_x(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in ("x", "labels")}


class WithReplacement(raytrainer.Trainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return RandomSampler(range(COUNT), replacement=True)


class OwnLoader(raytrainer.Trainer):
    def get_train_dataloader(self) -> Any:
        return DataLoader(Rows(), 2)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (WithReplacement, "its RandomSampler decides how often"),
        (OwnLoader, "returned a DataLoader of its own"),
    ],
)
def test_what_cannot_be_checked_is_said(kind: type[raytrainer.Trainer], why: str, tmp_path: Path) -> None:
    (said,) = train(tmp_path, kind=kind)
    assert said.startswith("sample ledger: nothing is checked, because ")
    assert why in said
    assert (tmp_path / NAME).exists() is (kind is WithReplacement)


def test_steps_without_a_ledger_are_named(tmp_path: Path) -> None:
    train(tmp_path, debug="", max_steps=2)
    said = train(tmp_path, resume=True, num_train_epochs=1)
    assert said == [
        "sample ledger: epoch 0 is not checked, because nothing was written for steps 1, 2: an earlier part of the "
        "run had no ledger."
    ]


def test_a_bucket_holds_no_ledger() -> None:
    with pytest.raises(raytrainer.ConfigurationError, match=r"sample_ledger.*is a bucket"):
        raytrainer.TrainingArguments("s3://bucket/run", debug="sample_ledger")


def test_both_options_of_debug_go_together() -> None:
    args = raytrainer.TrainingArguments("x", debug="underflow_overflow sample_ledger")
    assert [one.value for one in args.debug] == ["underflow_overflow", "sample_ledger"]
    assert args.to_dict()["debug"] == ["underflow_overflow", "sample_ledger"]


def line(step: int, *samples: int) -> LedgerLine:
    return LedgerLine(step=step, epoch=0, samples=list(samples), fill_ups=[])


def test_an_attempt_on_other_ranks_counts_from_the_step_at_which_it_began(tmp_path: Path) -> None:
    first = new_attempt(tmp_path, 0)
    for rank in (0, 1):
        for step in (1, 2):
            append_line(first, line(step, 10 * rank + step), rank=rank, world_size=2)
    with (first / "rank-0-of-2.jsonl").open("a") as file:
        file.write('{"step": 3, "epo')  # killed while it wrote
    append_line(new_attempt(tmp_path, 1), line(2, 22), rank=0, world_size=1)
    assert {step: sorted(ids) for step, ids in ledger(tmp_path).items()} == {1: [1, 11], 2: [22]}
    assert all(use.is_whole for use in read_epoch(tmp_path, 0).values())
    new_attempt(tmp_path, 0)
    assert ledger(tmp_path) == {}, "a run from the start replaces all"


def test_a_rank_without_its_line_makes_a_step_incomplete(tmp_path: Path) -> None:
    append_line(new_attempt(tmp_path, 0), line(1, 1), rank=1, world_size=2)
    assert not read_epoch(tmp_path, 0)[1].is_whole


def test_positions_of_several_readers_are_compared_one_by_one() -> None:
    rule = UseRule()
    assert not faults_of(["0:0", "0:1", "1:0"], rule)
    faults = faults_of(["0:0", "0:2", "1:0", "1:0"], rule)
    assert (faults.unused, faults.repeated) == (["0:1"], ["1:0"])
