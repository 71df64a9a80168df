"""What the loop adds to a step: raytrainer and transformers.Trainer against a bare PyTorch loop, one process.

    python benchmarks/loop_overhead.py [--steps 300] [--rounds 5]

The bare loop does the minimum of a training step: fetch, forward, backward, clip, AdamW (fused), schedule, zero_grad.
Rounds are interleaved, and the medians of the rounds' mean step times are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader

import raytrainer

BATCH = 8


class Clock(transformers.TrainerCallback):
    """Measures the time of the steps after the first ten."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 10:
            self.began = time.perf_counter()
        if state.global_step == state.max_steps:
            self.ended = time.perf_counter()


def make_model() -> torch.nn.Module:
    """A tiny Llama."""
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )


def make_data(num_steps: int) -> list[dict[str, torch.Tensor]]:
    """Enough samples for one epoch."""
    tokens = torch.randint(0, 128, (num_steps * BATCH, 32), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in tokens]


def time_bare(num_steps: int) -> float:
    """Mean time of a step of the bare loop [s]."""
    model = make_model().train()
    loader = DataLoader(make_data(num_steps), batch_size=BATCH, shuffle=True)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, num_steps)
    began = 0.0
    for step, batch in enumerate(loader):
        if step == 10:
            began = time.perf_counter()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return (time.perf_counter() - began) / (num_steps - 10)


def time_trainer(library: Any, num_steps: int, **options: Any) -> float:
    """Mean time of a step of a Trainer, with logs and checkpoints off [s]."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        args = library.TrainingArguments(
            output_dir=directory,
            per_device_train_batch_size=BATCH,
            max_steps=num_steps,
            learning_rate=1e-3,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            **options,
        )
        trainer = library.Trainer(
            model=make_model(), args=args, train_dataset=make_data(num_steps), callbacks=[clock]
        )
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
    return (clock.ended - clock.began) / (num_steps - 10)


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {"bare": [], "raytrainer": [], "transformers": []}
    for _ in range(options.rounds):
        times["bare"].append(time_bare(options.steps))
        times["raytrainer"].append(time_trainer(raytrainer, options.steps, num_workers=0))
        times["transformers"].append(time_trainer(transformers, options.steps))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:13} {seconds * 1e3:7.3f} ms/step   {seconds / medians['bare']:.3f} x bare")


if __name__ == "__main__":
    main()
