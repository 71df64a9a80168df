"""Whatever draws random numbers while data are read and collated, a run that goes on draws the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler, get_worker_info
from transformers import BertTokenizerFast, DataCollatorForLanguageModeling

import raytrainer
from tests.data.test_resume import losses, make_trainer

STEPS = 8
COUNT = 19


def drawn() -> int:
    """A number that all three of a process's random states decide."""
    return int(torch.randint(5, ())) + int(np.random.randint(5)) + random.randrange(5)


def row(index: int) -> dict[str, Any]:
    tokens = [(index * 3 + place + drawn()) % 20 for place in range(8)]
    return {"input_ids": tokens, "labels": tokens}


class Map(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, Any]:
        return row(index)


class Batched(Map):
    """Reads several samples at once, as ``datasets`` does."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        added = drawn()
        return [row(index + added) for index in indices]


class Still(Map):
    """Draws nothing."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = [(index * 3 + place) % 20 for place in range(8)]
        return {"input_ids": tokens, "labels": tokens}


class Stream(IterableDataset[dict[str, Any]]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(COUNT):
            yield row(index)


class Shuffled(IterableDataset[dict[str, Any]]):
    """Its order comes from the random state of the process in which it is read."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = list(range(COUNT))
        random.shuffle(order)
        for index in order:
            yield row(index)


class Stateful(Stream):
    place = start = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = self.place = state["place"]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first, self.start = self.start, 0
        for self.place in range(first + 1, COUNT + 1):
            yield row(self.place)


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {key: torch.tensor([one[key] for one in rows]) for key in rows[0]}


def masking(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    batch = collate(rows)
    batch["labels"] = batch["labels"].masked_fill(torch.rand(batch["labels"].shape) < 0.3, -100)
    batch["input_ids"] = (batch["input_ids"] + drawn()) % 20
    return batch


class Sampled(raytrainer.Trainer):
    """Its order comes from the random state of this process."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return RandomSampler(range(COUNT), replacement=True)


class OwnLoader(raytrainer.Trainer):
    def get_train_dataloader(self) -> Any:
        return DataLoader(
            self.train_dataset,  # pyright: ignore[reportArgumentType]
            batch_size=2,
            shuffle=True,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )


class Library:
    """What ``make_trainer`` needs of a library."""

    TrainingArguments = raytrainer.TrainingArguments

    def __init__(self, trainer: type[raytrainer.Trainer]) -> None:
        self.Trainer = trainer


def trainer_of(
    directory: Path,
    dataset: Any,
    *,
    collator: Any = collate,
    kind: type[raytrainer.Trainer] = raytrainer.Trainer,
    **options: Any,
) -> Any:
    defaults = {"num_workers": 0, "max_steps": STEPS, "save_steps": 3, "gradient_accumulation_steps": 1}
    library: Any = Library(kind)
    trainer = make_trainer(directory, dataset, library, **{**defaults, **options})
    trainer.data_collator = collator
    return trainer


def check_goes_on(directory: Path, make: Callable[[], Any], *, step: int = 3, **options: Any) -> None:
    whole = trainer_of(directory, make(), **options)
    whole.train()
    assert len(set(losses(whole))) == len(losses(whole)) == STEPS
    resumed = trainer_of(directory, make(), save_strategy="no", **options)
    torch.manual_seed(99)  # nothing may come from how this process began
    resumed.train(resume_from_checkpoint=str(directory / f"checkpoint-{step}"))
    assert losses(resumed) == losses(whole)


def drawn_by_processes(directory: Path, dataset: Any, **options: Any) -> list[float]:
    """Losses of a run whose model draws nothing, whatever the number of its loading processes."""
    trainer = trainer_of(directory, dataset, dropout=0.0, save_strategy="no", **options)
    trainer.train()
    return losses(trainer)


PROCESSES = [0, 1, pytest.param(2, marks=pytest.mark.slow)]


def transformed(one: dict[str, Any]) -> dict[str, Any]:
    tokens = [(token + drawn()) % 20 for token in one["input_ids"]]
    return {"input_ids": tokens, "labels": tokens}


def shards() -> Any:
    rows = [{"input_ids": [(index * 3 + place) % 20 for place in range(8)]} for index in range(COUNT)]
    return datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=2)


def mapped() -> Any:
    """A stream of ``datasets`` with a random transform."""
    return shards().map(transformed)


def buffered() -> Any:
    """The same behind a shuffle buffer, which keeps no place."""
    return shards().shuffle(seed=3, buffer_size=5).map(transformed)


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("make", [Map, Batched, Stream, Stateful, Shuffled, mapped, buffered])
def test_a_dataset_that_draws_goes_on(make: Callable[[], Any], processes: int, tmp_path: Path) -> None:
    check_goes_on(tmp_path, make, dataloader_num_workers=processes)


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("make", [Still, Stream])
def test_a_collator_that_draws_goes_on(make: Callable[[], Any], processes: int, tmp_path: Path) -> None:
    check_goes_on(tmp_path, make, collator=masking, dataloader_num_workers=processes)


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("kind", [Sampled, OwnLoader])
def test_an_order_that_is_drawn_by_the_user_goes_on(
    kind: type[raytrainer.Trainer], processes: int, tmp_path: Path
) -> None:
    check_goes_on(tmp_path, Map, kind=kind, dataloader_num_workers=processes)


@pytest.mark.parametrize("make", [Map, Batched, Still])
def test_samples_draw_the_same_on_any_number_of_loading_processes(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    one, several = (
        drawn_by_processes(tmp_path, make(), collator=masking, dataloader_num_workers=number)
        for number in (1, 3)
    )
    assert one == several
    other = drawn_by_processes(
        tmp_path, make(), collator=masking, dataloader_num_workers=1, seed=43, data_seed=42
    )
    assert one != other, "draws follow the seed"


def test_a_sample_draws_anew_in_each_epoch(tmp_path: Path) -> None:
    seen: dict[str, list[float]] = {}
    for make in (Map, Still):
        options = {"train_sampling_strategy": "sequential", "learning_rate": 0.0, "max_steps": 20}
        found = drawn_by_processes(tmp_path, make(), dataloader_num_workers=1, **options)
        seen[make.__name__] = [found[0], found[10]]  # the first micro-batch of each epoch
    assert seen["Still"][0] == pytest.approx(seen["Still"][1])
    assert seen["Map"][0] != pytest.approx(seen["Map"][1])


def test_processes_that_stay_draw_like_those_of_each_epoch(tmp_path: Path) -> None:
    options = {"dataloader_num_workers": 1, "max_steps": 15}
    fresh, kept = (
        drawn_by_processes(tmp_path, Map(), dataloader_persistent_workers=stay, **options)
        for stay in (False, True)
    )
    assert fresh == kept


def test_the_seed_of_a_loading_process_comes_back(tmp_path: Path) -> None:
    class Seeds(Still):
        def __getitem__(self, index: int) -> dict[str, Any]:
            info = get_worker_info()
            tokens = [(index + (info.seed if info else 0)) % 20] * 8
            return {"input_ids": tokens, "labels": tokens}

    check_goes_on(tmp_path, Seeds, dataloader_num_workers=1)


class Keeps(Still):
    """Draws from generators that it keeps."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)
        self.old = np.random.RandomState(2)
        self.python = random.Random(3)
        self.torch = torch.Generator().manual_seed(4)

    def __getitem__(self, index: int) -> dict[str, Any]:
        added = int(self.rng.integers(9)) + int(self.old.randint(9)) + self.python.randrange(9)
        added += int(torch.randint(9, (), generator=self.torch))
        tokens = [(index * 3 + place + added) % 20 for place in range(8)]
        return {"input_ids": tokens, "labels": tokens}


class KeepsStream(IterableDataset[dict[str, Any]]):
    """A stream whose order comes from a generator that it keeps."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in self.rng.permutation(COUNT):
            added = int(self.rng.integers(9))
            tokens = [(int(index) * 3 + place + added) % 20 for place in range(8)]
            yield {"input_ids": tokens, "labels": tokens}


class SampledByOwn(raytrainer.Trainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return RandomSampler(range(COUNT), replacement=True, generator=torch.Generator().manual_seed(5))


class Masks:
    """A collator whose method collates."""

    def __init__(self) -> None:
        self.rng = random.Random(6)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate(rows)
        batch["input_ids"] = (batch["input_ids"] + self.rng.randrange(9)) % 20
        return batch


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("step", [3, 6])
@pytest.mark.parametrize("make", [Keeps, KeepsStream])
def test_generators_that_a_dataset_keeps_go_on(
    make: Callable[[], Any], step: int, processes: int, tmp_path: Path
) -> None:
    check_goes_on(tmp_path, make, step=step, dataloader_num_workers=processes)


@pytest.mark.parametrize("processes", PROCESSES)
def test_the_generator_of_a_collator_goes_on(processes: int, tmp_path: Path) -> None:
    whole = trainer_of(tmp_path, Still(), collator=Masks().collate, dataloader_num_workers=processes)
    whole.train()
    resumed = trainer_of(tmp_path, Still(), collator=Masks().collate, dataloader_num_workers=processes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert losses(resumed) == losses(whole)
    still = trainer_of(tmp_path, Still(), dataloader_num_workers=processes, save_strategy="no")
    still.train()
    assert losses(still)[1:] != losses(whole)[1:]


@pytest.mark.parametrize("step", [3, 6])
@pytest.mark.parametrize("processes", PROCESSES)
def test_the_generator_of_a_sampler_goes_on(processes: int, step: int, tmp_path: Path) -> None:
    options = {"per_device_train_batch_size": 5, "kind": SampledByOwn, "dataloader_num_workers": processes}
    check_goes_on(tmp_path, Still, step=step, **options)


@pytest.mark.parametrize("processes", PROCESSES)
def test_masks_of_a_seeded_collator_of_transformers_go_on(processes: int, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(15))])
    )
    tokenizer = BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt"))

    def seeded() -> Any:
        return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5, seed=7)

    rows = [{"input_ids": [(index * 3 + place) % 15 + 5 for place in range(8)]} for index in range(COUNT)]
    whole = trainer_of(tmp_path, rows, collator=seeded(), dataloader_num_workers=processes)
    whole.train()
    resumed = trainer_of(tmp_path, rows, collator=seeded(), dataloader_num_workers=processes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert losses(resumed) == losses(whole)


class Whole(Map):
    """Gives a micro-batch as it is."""

    def __getitems__(self, indices: list[int]) -> Any:
        return collate([row(index) for index in indices])


def as_it_is(batch: Any) -> Any:
    return batch


@pytest.mark.parametrize("processes", PROCESSES)
def test_a_dataset_that_makes_whole_batches_goes_on(processes: int, tmp_path: Path) -> None:
    check_goes_on(
        tmp_path, Whole, collator=as_it_is, dataloader_num_workers=processes, remove_unused_columns=False
    )
