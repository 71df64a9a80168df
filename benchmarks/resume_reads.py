"""Samples read from a stream to resume at step 200 of 205: raytrainer and transformers.Trainer, one process.

    python benchmarks/resume_reads.py

The stream has ``state_dict`` and ``load_state_dict``; batches have 8 samples, so 40 are needed.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch.utils.data import IterableDataset

import raytrainer

BATCH, SAVED, STEPS = 8, 200, 205


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    """An endless stream; counts the samples read from it."""

    def __init__(self) -> None:
        self.start = self.place = self.num_read = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = self.place = state["place"]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self.place, self.start = self.start, 0
        while True:
            self.place += 1
            self.num_read += 1
            row = torch.arange(self.place, self.place + 8) % 50
            yield {"input_ids": row, "labels": row}


def samples_to_resume(library: Any) -> int:
    """Train to the end with a checkpoint, go on from it, and return what the second run read [samples]."""
    own = {"num_workers": 0} if library is raytrainer else {}
    with tempfile.TemporaryDirectory() as directory:
        for resume in (None, f"{directory}/checkpoint-{SAVED}"):
            torch.manual_seed(0)
            config = transformers.LlamaConfig(
                vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
            )
            args = library.TrainingArguments(
                output_dir=directory,
                per_device_train_batch_size=BATCH,
                max_steps=STEPS,
                save_steps=SAVED,
                logging_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                **own,
            )
            dataset = Stream()
            model = transformers.LlamaForCausalLM(config)
            with contextlib.redirect_stdout(io.StringIO()):
                library.Trainer(model=model, args=args, train_dataset=dataset).train(
                    resume_from_checkpoint=resume
                )
    return dataset.num_read


def main() -> None:
    """Print both counts and their ratio."""
    theirs, ours = samples_to_resume(transformers), samples_to_resume(raytrainer)
    needed = (STEPS - SAVED) * BATCH
    print(f"samples needed {needed}, read by transformers.Trainer {theirs}, by raytrainer {ours}")
    print(f"ratio {ours / theirs:.3f} (raytrainer / transformers.Trainer)")


if __name__ == "__main__":
    main()
