"""A tiny T5 that learns to reverse sequences of different lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import T5Config, T5ForConditionalGeneration

import raytrainer

EOS = 1
LIVELY = {"suppress_tokens": [0], "repetition_penalty": 2.5}
"""Keywords of ``generate`` with which a model that has learnt little writes different things of different length."""


class Pairs(torch.utils.data.Dataset[dict[str, Any]]):
    """Inputs of 6 tokens; labels of 2 to 6 tokens and the end, filled up with -100."""

    def __init__(self, count: int, *, has_labels: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows: list[dict[str, torch.Tensor]] = []
        for index in range(count):
            tokens = torch.randint(2, 40, (6,), generator=generator)
            labels = torch.full((7,), -100)
            kept = 2 + index % 5
            labels[:kept] = tokens.flip(0)[:kept]
            labels[kept] = EOS
            self.rows.append({"input_ids": tokens, **({"labels": labels} if has_labels else {})})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def make_model(dropout: float = 0.1) -> T5ForConditionalGeneration:
    torch.manual_seed(7)
    config = T5Config(
        vocab_size=40,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=EOS,
        dropout_rate=dropout,
    )
    return T5ForConditionalGeneration(config)


def make_trainer(library: Any, directory: Path, *, count: int = 11, **options: Any) -> Any:
    num_ranks = options.pop("num_ranks", 0)
    own = {
        name: options.pop(name)
        for name in ("model", "compute_metrics", "eval_dataset", "model_init")
        if name in options
    }
    if library is raytrainer:
        options["num_workers"] = num_ranks
    args = library.Seq2SeqTrainingArguments(
        **{
            "output_dir": str(directory),
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "max_steps": 4,
            "logging_steps": 1,
            "learning_rate": 1e-2,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "predict_with_generate": True,
            "generation_max_length": 20,
            **options,
        }
    )
    if "model_init" not in own:
        own.setdefault("model", make_model())
    own.setdefault("eval_dataset", Pairs(count))
    return library.Seq2SeqTrainer(args=args, train_dataset=Pairs(40), **own)
