"""Runs of one small model with data split into batches in different ways, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import torch
import transformers
from datasets.distributed import split_dataset_by_node
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

import raytrainer
from raytrainer.loop import run_setup
from raytrainer.worker import applied_settings as engagement

GLOBAL_BATCH = 4
STEPS = 8
SAVED = 5


def rows(count: int) -> list[dict[str, Any]]:
    """Token sequences of different lengths, with a class each."""
    return [
        {"input_ids": [(i * 7 + j) % 20 for j in range(4 + i * 5 % 6)], "labels": i * 3 % 4}
        for i in range(count)
    ]


class Stream(IterableDataset[dict[str, Any]]):
    """Counts the samples read from it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.num_read = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in rows(self.count):
            self.num_read += 1
            yield row


def shards(count: int) -> datasets.IterableDataset:
    return datasets.Dataset.from_list(rows(count)).to_iterable_dataset(num_shards=4)


def for_language(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pads to the longest sample of the batch, so that ranks get different lengths."""
    tokens = [torch.tensor(sample["input_ids"]) for sample in samples]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "labels": pad_sequence(tokens, batch_first=True, padding_value=-100),
    }


def for_classes(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    batch = for_language(samples)
    batch["attention_mask"] = batch["labels"].ne(-100).long()
    return {**batch, "labels": torch.tensor([sample["labels"] for sample in samples])}


def language_model() -> Any:
    """Divides its loss by the number of targets of the step."""
    torch.manual_seed(7)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
    )


def classifier(dropout: float = 0.0, vocabulary: int = 20) -> Any:
    """Takes the mean over its batch."""
    torch.manual_seed(7)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=vocabulary,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_labels=4,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )


@dataclass(frozen=True)
class Case:
    """One run."""

    dataset: Callable[[int], Any] = rows
    count: int = 19
    """4 rounds of 4 and one of 3: on two ranks one of them is filled up."""
    config: dict[str, Any] = field(default_factory=dict)
    """``accelerator_config``."""
    options: dict[str, Any] = field(default_factory=dict)
    classifies: bool = False
    trainer: type[raytrainer.Trainer] = raytrainer.Trainer
    resumes: str = ""
    """Name of the case whose checkpoint it begins from."""


IN_ORDER = {"train_sampling_strategy": "sequential"}
UNEVEN = {"even_batches": False}
DEALT = {"dispatch_batches": True}


class OwnLoader(raytrainer.Trainer):
    """Makes a loader of torch, and lets every rank read it or prepares it."""

    prepares = False

    def get_train_dataloader(self) -> Any:
        size = self.args.train_batch_size
        loader = DataLoader(self.train_dataset, size, shuffle=True, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader) if self.prepares else loader


class PreparedLoader(OwnLoader):
    prepares = True


class SampledLoader(raytrainer.Trainer):
    """Divides what it predicts by torch's sampler."""

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        sampler = DistributedSampler(test_dataset, shuffle=False)
        return DataLoader(test_dataset, 2, sampler=sampler, collate_fn=self.data_collator)


class StreamByNode(raytrainer.Trainer):
    """Predicts on a stream of three rows, of which one rank has two."""

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        stream = datasets.Dataset.from_list(test_dataset[:3]).to_iterable_dataset()
        rank, world_size = self.args.process_index, self.args.world_size
        part = split_dataset_by_node(stream, rank=rank, world_size=world_size)
        return DataLoader(part, 1, collate_fn=self.data_collator)


CASES: dict[str, Case] = {
    "own loader": Case(trainer=OwnLoader),
    "own loader prepared": Case(trainer=PreparedLoader),
    "own loader with a sampler": Case(trainer=SampledLoader),
    "own stream by node": Case(trainer=StreamByNode),
    "map": Case(),
    "filled up by 1": Case(options=IN_ORDER),
    "filled up by 3": Case(count=17, options=IN_ORDER),
    "written out with 1": Case(lambda n: [*rows(n), *rows(20 - n)], options=IN_ORDER),
    "written out with 3": Case(lambda n: [*rows(n), *rows(20 - n)], count=17, options=IN_ORDER),
    "stream": Case(Stream),
    "shards": Case(shards, config=UNEVEN, options={"save_strategy": "steps"}),
    "shards by processes": Case(shards, options={"dataloader_num_workers": 2}),
    "split": Case(
        config={"split_batches": True},
        options={
            "per_device_train_batch_size": GLOBAL_BATCH,
            "per_device_eval_batch_size": GLOBAL_BATCH,
        },
    ),
    "reduced each time": Case(config={"gradient_accumulation_kwargs": {"sync_each_batch": True}}),
    "dealt map": Case(config=DEALT),
    "dealt stream": Case(Stream, config=DEALT),
    "dealt shards": Case(shards, config={**DEALT, **UNEVEN}, options={"save_strategy": "steps"}),
    "dealt shards by processes": Case(shards, config=DEALT, options={"dataloader_num_workers": 2}),
    "dealt uneven": Case(count=17, config={**DEALT, **UNEVEN}),
    # The last round has 3 samples, or 1, so that rank 1 has none.
    "uneven 3": Case(config=UNEVEN),
    "uneven 1": Case(count=17, config=UNEVEN),
    "uneven stream 1": Case(Stream, count=17, config=UNEVEN),
    "uneven classes 3": Case(config=UNEVEN, classifies=True),
    "uneven classes 1": Case(count=17, config=UNEVEN, classifies=True),
    "shards resumed": Case(shards, config=UNEVEN, resumes="shards"),
    "dealt shards resumed": Case(shards, config={**DEALT, **UNEVEN}, resumes="dealt shards"),
    "shards of one rank resumed": Case(shards, config=UNEVEN, resumes="alone"),
}


def run_case(
    name: str, directory: Path, *, num_ranks: int, resumes_from: Path | None = None
) -> dict[str, Any]:
    """Train, and return what this rank saw.

    Args:
        name: Name of the case.
        directory: Directory of the run; its siblings have the checkpoints of other cases.
        num_ranks: Ranks that share the global batch; 1 trains in this process.
        resumes_from: Checkpoint to resume from.
    """
    case = CASES[name]
    if case.resumes:
        resumes_from = directory.parent / case.resumes / f"checkpoint-{SAVED}"
    dataset = case.dataset(case.count)
    args = raytrainer.TrainingArguments(
        **{
            "output_dir": str(directory),
            "num_workers": num_ranks if num_ranks > 1 else 0,
            "per_device_train_batch_size": GLOBAL_BATCH // num_ranks,
            "per_device_eval_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_steps": STEPS,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "save_steps": SAVED,
            "use_cpu": True,
            "disable_tqdm": True,
            "accelerator_config": case.config if num_ranks > 1 else None,
            **case.options,
        }
    )
    trainer = case.trainer(
        model=classifier() if case.classifies else language_model(),
        args=args,
        train_dataset=dataset,
        eval_dataset=rows(5),  # in the last round of an evaluation rank 1 has none
        data_collator=for_classes if case.classifies else for_language,
    )
    with (
        patch.object(engagement, "data_rows", wraps=engagement.data_rows) as told,
        patch.object(run_setup, "tell", wraps=run_setup.tell) as tell,
    ):
        trainer.train(resume_from_checkpoint=str(resumes_from) if resumes_from else None)
    return {
        "table": [row.engaged for row in engagement.data_rows(told.call_args.args[0])],
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "norms": [log["grad_norm"] for log in trainer.state.log_history if "grad_norm" in log],
        "eval_loss": trainer.evaluate()["eval_loss"],
        "predicted": trainer.predict(rows(4)).label_ids.tolist(),
        "wrapper": type(trainer.model_wrapped).__name__,
        "notes": [call.args[1] for call in tell.call_args_list],
        "num_read": getattr(dataset, "num_read", None),
    }
