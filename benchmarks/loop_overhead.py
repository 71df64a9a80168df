"""What the loop adds to a step of 10 ms: raytrainer and transformers.Trainer against a bare PyTorch loop, one process.

    python benchmarks/loop_overhead.py [--steps 200] [--rounds 5]

The bare loop does the minimum of a training step: fetch, forward, backward, clip, AdamW (fused), schedule, zero_grad.
The trainers run with logs off, and with a log at every step. After each eight steps of a trainer the bare loop takes
eight in the same thread, so that both see the same machine: processes of the same code differ by 4%. The medians of
these blocks are compared: elapsed time, and CPU time of the training thread, which other processes disturb less.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import transformers
from scripts.figures import note
from torch.utils.data import DataLoader

import raytrainer

BATCH = 8
BLOCK = 8
"""Steps of one side before the other's."""
WARM_UP = 2
"""Blocks of each side that are not counted."""


class Times(NamedTuple):
    """The mean time of a step."""

    elapsed: float
    """[s]"""
    cpu: float
    """Of the training thread [s]."""

    @classmethod
    def now(cls) -> Times:
        """What the clocks show."""
        return cls(time.perf_counter(), time.thread_time())

    def since(self, began: Times, num_steps: int) -> Times:
        """The mean time of the steps since then."""
        return Times(*((end - begin) / num_steps for begin, end in zip(began, self, strict=True)))


class Clock(transformers.TrainerCallback):
    """Lets the bare loop run after each block of steps, and measures the blocks of both.

    Args:
        bare: Takes one block of steps and yields its time.
    """

    def __init__(self, bare: Iterator[Times]) -> None:
        self._bare = bare
        self._began: Times | None = None
        self.blocks: list[tuple[Times, Times]] = []
        """The trainer's, and the bare loop's after it."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % BLOCK:
            return
        own = Times.now().since(self._began, BLOCK) if self._began is not None else None
        bare = next(self._bare)
        if own is not None:
            self.blocks.append((own, bare))
        self._began = Times.now()

    def medians(self) -> tuple[Times, Times]:
        """Of the trainer and of the bare loop."""
        counted = self.blocks[WARM_UP:] or self.blocks
        own, bare = (_medians(side) for side in zip(*counted, strict=True))
        return own, bare


def _medians(times: Sequence[Times]) -> Times:
    return Times(*(statistics.median(values) for values in zip(*times, strict=True)))


def make_model() -> torch.nn.Module:
    """A tiny Llama."""
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=128,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )


def make_data(num_steps: int) -> list[dict[str, torch.Tensor]]:
    """Enough samples for one epoch."""
    tokens = torch.randint(0, 128, (num_steps * BATCH, 32), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in tokens]


def bare_loop(num_steps: int) -> Iterator[Times]:
    """Yield the mean time of a step of the bare loop after each block of them."""
    model = make_model().train()
    loader: Any = DataLoader(make_data(num_steps), batch_size=BATCH, shuffle=True)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, num_steps)
    began = Times.now()
    for step, batch in enumerate(loader, start=1):
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % BLOCK == 0:
            yield Times.now().since(began, BLOCK)
            began = Times.now()


def time_trainer(library: Any, num_steps: int, **options: Any) -> tuple[Times, Times]:
    """A step of a Trainer, with checkpoints off, and one of the bare loop beside it."""
    clock = Clock(bare_loop(num_steps + BLOCK))
    with tempfile.TemporaryDirectory() as directory:
        args = library.TrainingArguments(
            output_dir=directory,
            per_device_train_batch_size=BATCH,
            max_steps=num_steps,
            learning_rate=1e-3,
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
    return clock.medians()


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = options.steps
    quiet: dict[str, Any] = {"logging_strategy": "no"}
    logs: dict[str, Any] = {"logging_strategy": "steps", "logging_steps": 1}
    sides = {
        "raytrainer": lambda: time_trainer(raytrainer, steps, num_workers=0, **quiet),
        "transformers": lambda: time_trainer(transformers, steps, **quiet),
        "raytrainer, logs": lambda: time_trainer(raytrainer, steps, num_workers=0, **logs),
        "transformers, logs": lambda: time_trainer(transformers, steps, **logs),
    }
    times: dict[str, list[tuple[Times, Times]]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, measure in sides.items():
            own, bare = measure()
            times[side].append((own, bare))
            library, is_logged, _ = side.partition(", logs")
            figure = "logged step" if is_logged else "step"
            note(figure, library, own.elapsed, beside=bare.elapsed)
            note(figure, "bare loop", bare.elapsed)
    for side, found in times.items():
        own, bare = (_medians(values) for values in zip(*found, strict=True))
        print(
            f"{side:18} {own.elapsed * 1e3:7.3f} ms/step  {own.elapsed / bare.elapsed:.3f} x bare"
            f"   CPU {own.cpu * 1e3:7.3f} ms/step  {own.cpu / bare.cpu:.3f} x bare"
        )


if __name__ == "__main__":
    main()
