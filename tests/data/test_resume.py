"""A run resumed at any step has the losses of an uninterrupted run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from torch.utils.data import Dataset, IterableDataset

import raytrainer
from raytrainer.data.dataset_kinds import keeps_its_place

STEPS = 12
ROWS = [
    {"input_ids": list(range(i % 7, i % 7 + 8)), "labels": list(range(i % 7, i % 7 + 8)), "n": 3 + i * 5 % 11}
    for i in range(19)
]
"""10 micro-batches of 2 in a pass: 12 steps of 2 micro-batches go into the third one, and passes end with a sample."""


class Stream(IterableDataset[dict[str, Any]]):
    """Counts the samples read from it."""

    def __init__(self) -> None:
        self.num_read = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in ROWS:
            self.num_read += 1
            yield row


class Stateful(Stream):
    """Resumes where a state says."""

    def __init__(self) -> None:
        super().__init__()
        self.start = self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = self.place = state["place"]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first, self.start = self.start, 0
        for self.place in range(first + 1, len(ROWS) + 1):
            self.num_read += 1
            yield ROWS[self.place - 1]


class Map(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return ROWS[index]


class Plain:
    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(ROWS)


def hf() -> datasets.IterableDataset:
    return datasets.Dataset.from_list(ROWS).to_iterable_dataset(num_shards=3)


KINDS: dict[str, Callable[[], Any]] = {
    "list": lambda: ROWS,
    "columns": lambda: {key: [row[key] for row in ROWS] for key in ROWS[0]},
    "datasets.Dataset": lambda: datasets.Dataset.from_list(ROWS),
    "torch map": Map,
    "torch stream": Stream,
    "stateful stream": Stateful,
    "iterable": Plain,
    "datasets.IterableDataset": hf,
    "shuffled shards": lambda: hf().shuffle(seed=3, buffer_size=1),
    "shuffle buffer": lambda: hf().shuffle(seed=3, buffer_size=5),
}
QUICK = ("torch map", "stateful stream", "shuffle buffer")


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {key: torch.tensor([row[key] for row in rows]) for key in ("input_ids", "labels")}


def make_trainer(directory: Path, dataset: Any, library: Any = raytrainer, **options: Any) -> Any:
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    config.attention_dropout = options.pop("dropout", 0.1)
    if library is raytrainer:
        options["num_workers"] = 0
    args = library.TrainingArguments(
        **{
            "output_dir": str(directory),
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_steps": STEPS,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_steps": 1,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            **options,
        }
    )
    return library.Trainer(
        model=transformers.LlamaForCausalLM(config), args=args, train_dataset=dataset, data_collator=collate
    )


def losses(trainer: Any) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def check_resumes(
    directory: Path, make: Callable[[], Any], steps: Iterable[int] = range(1, STEPS), **options: Any
) -> None:
    whole = make_trainer(directory, make(), **options)
    whole.train()
    assert len(set(losses(whole))) == len(losses(whole)) == whole.state.max_steps
    for step in steps:
        resumed = make_trainer(directory, make(), save_strategy="no", **options)
        resumed.train(resume_from_checkpoint=str(directory / f"checkpoint-{step}"))
        assert losses(resumed) == losses(whole), f"resumed at step {step}"


@pytest.mark.parametrize("kind", [*QUICK, *(slow(kind) for kind in KINDS if kind not in QUICK)])
def test_every_kind_of_dataset_goes_on_at_every_step(kind: str, tmp_path: Path) -> None:
    check_resumes(tmp_path, KINDS[kind])


@pytest.mark.parametrize(
    "strategy", ["random", slow("sequential"), "group_by_length", slow("batch_rebalance")]
)
def test_every_strategy_goes_on_at_every_step(strategy: str, tmp_path: Path) -> None:
    check_resumes(
        tmp_path,
        lambda: datasets.Dataset.from_list(ROWS),
        train_sampling_strategy=strategy,
        length_column_name="n",
    )


@pytest.mark.parametrize("kind", ["stateful stream", slow("datasets.IterableDataset"), slow("torch stream")])
def test_loading_processes_do_not_count_what_they_read_ahead(kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataloader_num_workers": 2, "max_steps": 9}
    whole = make_trainer(tmp_path, KINDS[kind](), **options)
    whole.train()
    resumed = make_trainer(tmp_path, KINDS[kind](), save_strategy="no", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert losses(resumed) == losses(whole)


def test_a_stream_with_a_state_reads_nothing_twice(tmp_path: Path) -> None:
    make_trainer(tmp_path, Stateful(), max_steps=4).train()
    dataset = Stateful()
    make_trainer(tmp_path, dataset, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert dataset.num_read == 4


def test_a_stream_without_a_state_is_read_again_but_not_collated(tmp_path: Path) -> None:
    make_trainer(tmp_path, Stream(), max_steps=4).train()
    dataset = Stream()
    make_trainer(tmp_path, dataset, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert dataset.num_read == 16


def test_a_checkpoint_without_a_stream_position_is_read_up_to_its_sample(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path, Stateful())
    whole.train()
    for name in ("loop_state.json", "manifest.json"):
        (tmp_path / "checkpoint-4" / name).unlink()
    resumed = make_trainer(tmp_path, Stateful(), save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert losses(resumed)[:5] == losses(whole)[:5]


def test_another_number_of_loading_processes_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, hf(), max_steps=4).train()
    resumed = make_trainer(tmp_path, hf(), max_steps=4, dataloader_num_workers=2)
    with pytest.raises(raytrainer.RayTrainerError, match="dataloader_num_workers"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_generator_that_is_needed_twice_is_an_error(tmp_path: Path) -> None:
    make_trainer(tmp_path, (row for row in ROWS), max_steps=5).train()
    with pytest.raises(raytrainer.ConfigurationError, match="only once"):
        make_trainer(tmp_path, (row for row in ROWS), max_steps=6).train()


def test_a_state_that_json_cannot_keep_is_an_error(tmp_path: Path) -> None:
    class Odd(Stateful):
        def state_dict(self) -> Any:
            return {1: self.place}

    with pytest.raises(raytrainer.RayTrainerError, match="JSON"):
        make_trainer(tmp_path, Odd(), max_steps=2).train()


def test_a_shuffle_buffer_does_not_keep_its_place() -> None:
    assert keeps_its_place(hf())
    assert not keeps_its_place(hf().shuffle(seed=1, buffer_size=5).map(lambda row: row))


@pytest.mark.parametrize("strategy", ["random", "sequential", "group_by_length", "batch_rebalance"])
def test_the_first_epoch_has_the_order_of_transformers(strategy: str, tmp_path: Path) -> None:
    found = {}
    for library in (raytrainer, transformers):
        trainer = make_trainer(
            tmp_path,
            datasets.Dataset.from_list(ROWS),
            library,
            dropout=0.0,
            max_steps=5,
            save_strategy="no",
            train_sampling_strategy=strategy,
        )
        trainer.train()
        found[library.__name__] = losses(trainer)
    assert found["raytrainer"] == pytest.approx(found["transformers"], abs=1e-6)


@pytest.mark.parametrize(
    "kind", ["list", "datasets.Dataset", "torch map", "torch stream", "datasets.IterableDataset"]
)
def test_every_kind_trains_like_transformers(kind: str, tmp_path: Path) -> None:
    found = {}
    for library in (raytrainer, transformers):
        trainer = make_trainer(tmp_path, KINDS[kind](), library, max_steps=8, gradient_accumulation_steps=1)
        trainer.train()
        found[library.__name__] = losses(trainer)
    assert found["raytrainer"] == pytest.approx(found["transformers"], abs=1e-6)


def test_lengths_of_a_stream_cannot_be_grouped(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, Stream(), train_sampling_strategy="group_by_length")
    with pytest.raises(raytrainer.ConfigurationError, match="sorts samples by length"):
        trainer.train()
