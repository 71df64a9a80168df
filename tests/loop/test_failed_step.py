"""An error in a step names the step, the rank, the samples and what probably caused it, and stays what it is."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback

import raytrainer
from tests.parity.twins import make_args

BAD = 7
"""Position of the sample that something is wrong with."""


def row(index: int, length: int = 8, **changes: Any) -> dict[str, Any]:
    ids = [5 + index] * length
    return {"input_ids": ids, "attention_mask": [1] * length, "labels": index % 3, **changes}


def rows(**changes: Any) -> list[dict[str, Any]]:
    return [row(index, **(changes if index == BAD else {})) for index in range(16)]


class Broken(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == BAD:
            raise OSError("truncated file")
        return row(index)


class Stream(IterableDataset[dict[str, Any]]):
    def __iter__(self) -> Any:
        yield from rows(length=9)


class Odd(BertForSequenceClassification):
    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, **kwargs: Any) -> Any:
        if (input_ids == 5 + BAD).any():
            raise ZeroDivisionError("of the user's")
        return super().forward(input_ids=input_ids, labels=labels, **kwargs)


def make(directory: Path, data: Any, kind: type = BertForSequenceClassification, **options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    model = kind(BertConfig(vocab_size=100, max_position_embeddings=20, num_labels=3, **sizes))
    metrics = options.pop("compute_metrics", None)
    args = make_args(
        raytrainer, directory, **{"max_steps": 4, "train_sampling_strategy": "sequential", **options}
    )
    return raytrainer.Trainer(
        model=model, args=args, train_dataset=data, eval_dataset=data, compute_metrics=metrics
    )


def notes_of(error: BaseException) -> str:
    return "\n".join(error.__notes__)


CASES = {
    "token": (rows(input_ids=[300] * 8), IndexError, "word_embeddings has rows 0 to 99.*row 300, in place 3"),
    "negative token": (rows(input_ids=[-100] * 8), IndexError, "word_embeddings.*row -100"),
    "label": (rows(labels=7), IndexError, "a label is 7, and the model predicts 3 classes"),
    "positions": ([row(i, length=30) for i in range(16)], RuntimeError, "have 30 tokens, .* 20 positions"),
    "ragged": (
        rows(length=9),
        ValueError,
        r"'input_ids' has different lengths \(8 in sample 4 and 9 in sample 7\)",
    ),
    "missing": (
        [row(i) if i != BAD else {"input_ids": [1] * 8, "attention_mask": [1] * 8} for i in range(16)],
        KeyError,
        "no 'labels' in sample 7",
    ),
    "dataset": (Broken(), OSError, r"sample 7 cannot be read \(OSError: truncated file\)"),
}


@pytest.mark.parametrize("name", CASES)
def test_an_error_of_a_step_names_step_rank_samples_and_the_likely_cause(name: str, tmp_path: Path) -> None:
    data, kind, cause = CASES[name]
    with pytest.raises(kind) as caught:
        make(tmp_path, data).train()
    assert type(caught.value) is kind
    step, ids = (1, "0, 1, 2, 3") if name == "positions" else (2, "4, 5, 6, 7")
    notes = notes_of(caught.value)
    assert f"In step {step} on rank 0" in notes
    assert f"Its samples in the data: {ids}." in notes
    caught.match(cause)
    raised_in = Path(traceback.extract_tb(caught.value.__traceback__)[-1].filename)
    assert not raised_in.is_relative_to(Path(raytrainer.__file__).parent)


@pytest.mark.parametrize("name", CASES)
def test_an_error_of_an_evaluation_names_its_samples_and_the_likely_cause(name: str, tmp_path: Path) -> None:
    data, kind, cause = CASES[name]
    with pytest.raises(kind, match=cause) as caught:
        make(tmp_path, data, per_device_eval_batch_size=4).evaluate()
    ids = "0, 1, 2, 3" if name == "positions" else "4, 5, 6, 7"
    assert f"Its samples in the data: {ids}." in notes_of(caught.value)
    assert "In Evaluation after step 0 on rank 0" in notes_of(caught.value)


@pytest.mark.parametrize("name", ["ragged", "dataset"])
def test_an_error_of_a_loading_process_is_explained_too(name: str, tmp_path: Path) -> None:
    data, kind, cause = CASES[name]
    with pytest.raises(kind, match=cause) as caught:
        make(tmp_path, data, dataloader_num_workers=1).train()
    assert "Its samples in the data: 4, 5, 6, 7." in notes_of(caught.value)


def test_an_error_of_the_users_model_has_no_cause_made_up(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="of the user's") as caught:
        make(tmp_path, rows(), kind=Odd).train()
    assert "In step 2 on rank 0, micro-batch 1 of epoch 0" in notes_of(caught.value)
    assert "Likely cause" not in notes_of(caught.value)


def test_samples_of_a_stream_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected sequence") as caught:
        make(tmp_path, Stream()).train()
    assert "Its samples in the data: 4, 5, 6, 7." in notes_of(caught.value)


def test_after_a_resume_the_samples_are_those_of_the_epoch(tmp_path: Path) -> None:
    make(tmp_path, rows(), max_steps=1, save_strategy="steps", save_steps=1).train()
    with pytest.raises(IndexError) as caught:
        make(tmp_path, rows(labels=7)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert "In step 2 on rank 0, micro-batch 1 of epoch 0. Its samples in the data: 4, 5, 6, 7." in notes_of(
        caught.value
    )
    with pytest.raises(OSError, match="truncated") as caught:
        make(tmp_path, Broken()).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert "Micro-batch 1 could not be read. Its samples in the data: 4, 5, 6, 7." in notes_of(caught.value)


def test_an_error_in_compute_metrics_names_what_it_was_given(tmp_path: Path) -> None:
    def metrics(prediction: Any) -> dict[str, float]:
        raise TypeError("of the user's")

    with pytest.raises(TypeError, match="of the user's") as caught:
        make(tmp_path, rows(), compute_metrics=metrics).evaluate()
    assert "given 16 samples: predictions [16, 3], labels [16]" in notes_of(caught.value)
    assert "In Evaluation after step 0 on rank 0" in notes_of(caught.value)


class Late(TrainerCallback):
    """Fails after the third step as a GPU does that reports what happened before."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise RuntimeError("CUDA error: device-side assert triggered")


class Tolerant(BertForSequenceClassification):
    """Goes on with a token that it does not know, as a GPU does for a while."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, **kwargs: Any) -> Any:
        return super().forward(input_ids=input_ids.clamp(max=99), labels=labels, **kwargs)


def test_an_error_that_a_gpu_reports_steps_later_names_the_samples_that_caused_it(tmp_path: Path) -> None:
    trainer = make(tmp_path, rows(input_ids=[300] * 8), kind=Tolerant)
    trainer.add_callback(Late())
    with pytest.raises(RuntimeError, match="device-side assert") as caught:
        trainer.train()
    notes = notes_of(caught.value)
    assert (
        "The newest micro-batch is micro-batch 2 of epoch 0. Its samples in the data: 8, 9, 10, 11." in notes
    )
    assert "told late of micro-batch 1 of the epoch. Its samples in the data: 4, 5, 6, 7. There, " in notes
    assert "word_embeddings has rows 0 to 99, and its input asks for row 300" in notes
