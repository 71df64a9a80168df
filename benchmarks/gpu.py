"""Tokens per second and model FLOPs utilization on one GPU: raytrainer, transformers.Trainer, and a bare loop.

    python benchmarks/gpu.py [--batch 4] [--checkpointing] [--compile] [--peak-tflops 989]
    python benchmarks/gpu.py --tiny        # seconds on a CPU, to see that it works

All train a Llama of 1.3 B parameters with random weights on random tokens: fp32 weights, bf16 autocast, fused AdamW,
gradients clipped. raytrainer also trains it under FSDP2 with one rank. Rounds are interleaved, the order rotates, and
medians of the rounds' mean step times are compared.

MFU is that of PaLM (Chowdhery et al. 2022, appendix B): observed tokens/s x (6 N + 12 L H T) / peak FLOP/s, for N
parameters, L layers, heads x head size H, and sequences of T tokens. It counts no recomputation. As in PaLM, whose
embeddings are tied, N counts the vocabulary matrix once: looking up an embedding multiplies nothing. The peak is the
vendor's for dense bf16.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader

import raytrainer

PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "A40": 150,
    "A10": 125,
    "L4": 121,
    "RTX 4090": 165,
}
"""Dense bf16 with fp32 accumulation, by a part of the name that CUDA gives the device; the first that fits counts."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one side did in one round."""

    step_s: float
    peak_bytes: int
    loss: float
    """Of the last step, or the mean over the steps: it shows that something was trained."""


class Clock(transformers.TrainerCallback):
    """Measures the time of the steps after the first ones, with the device drained at both ends."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.began = self.ended = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.warmup:
            self.began = now()
        if state.global_step == state.max_steps:
            self.ended = now()


def now() -> float:
    """Time when all that was asked of the device is done [s]."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def config_of(options: argparse.Namespace) -> transformers.LlamaConfig:
    """The shape of Llama with 1.3 B parameters, or a tiny one."""
    shape = {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24, "vocab_size": 32000}
    if options.tiny:
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128}
    return transformers.LlamaConfig(
        **shape,
        num_attention_heads=4 if options.tiny else 16,
        max_position_embeddings=options.length,
        use_cache=False,
    )


def make_model(options: argparse.Namespace) -> transformers.LlamaForCausalLM:
    """The model, made where it will train."""
    torch.manual_seed(0)
    with torch.device(options.device):
        return transformers.LlamaForCausalLM(config_of(options)).train()


def make_data(options: argparse.Namespace) -> list[dict[str, torch.Tensor]]:
    """Enough samples for all steps."""
    tokens = torch.randint(
        0,
        config_of(options).vocab_size,
        ((options.warmup + options.steps) * options.batch, options.length),
        generator=torch.Generator().manual_seed(0),
    )
    return [{"input_ids": row, "labels": row} for row in tokens]


def run_bare(options: argparse.Namespace) -> tuple[float, float]:
    """A loop that does the minimum; returns the mean time of a step [s] and the last loss."""
    model, device = make_model(options), options.device
    if options.checkpointing:
        model.gradient_checkpointing_enable()
    if options.compile:
        model.compile()
    loader = DataLoader(
        make_data(options),  # type: ignore[arg-type]
        batch_size=options.batch,
        shuffle=True,
        pin_memory=device == "cuda",
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, len(loader))
    began, loss = 0.0, torch.zeros(())
    for step, batch in enumerate(loader):
        if step == options.warmup:
            began = now()
        moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(device, torch.bfloat16):
            loss = model(**moved).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return (now() - began) / options.steps, loss.item()


def run_trainer(library: Any, options: argparse.Namespace, **more: Any) -> tuple[float, float]:
    """A Trainer with logs and checkpoints off; returns the mean time of a step [s] and the mean loss."""
    clock = Clock(options.warmup)
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
        args = library.TrainingArguments(
            output_dir=directory,
            per_device_train_batch_size=options.batch,
            max_steps=options.warmup + options.steps,
            learning_rate=1e-4,
            bf16=True,
            optim="adamw_torch_fused",
            activation_checkpointing=options.checkpointing,
            torch_compile=options.compile,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            use_cpu=options.device == "cpu",
            disable_tqdm=True,
            **more,
        )
        trainer = library.Trainer(
            model=make_model(options), args=args, train_dataset=make_data(options), callbacks=[clock]
        )
        result = trainer.train()
    return (clock.ended - clock.began) / options.steps, result.training_loss


SIDES: dict[str, Callable[[argparse.Namespace], tuple[float, float]]] = {
    "bare": run_bare,
    "raytrainer": functools.partial(run_trainer, raytrainer, num_workers=0),
    "transformers": functools.partial(run_trainer, transformers),
    "raytrainer, FSDP2": functools.partial(run_trainer, raytrainer, num_workers=0, fsdp=True),
}


def measure(side: str, options: argparse.Namespace) -> Reading:
    """One run of one side, with nothing left on the device before it."""
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step_s, loss = SIDES[side](options)
    peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else 0
    return Reading(step_s=step_s, peak_bytes=peak, loss=loss)


def flops_per_token(options: argparse.Namespace) -> float:
    """6 N + 12 L H T, forward and backward [FLOP]."""
    config = config_of(options)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    num_parameters = sum(one.numel() for one in model.parameters())
    num_multiplied = num_parameters - model.get_input_embeddings().weight.numel()
    return 6 * num_multiplied + 12 * config.num_hidden_layers * config.hidden_size * options.length


def peak_flops(options: argparse.Namespace) -> float | None:
    """The device's peak [FLOP/s]; None where it is not known."""
    if options.peak_tflops is not None:
        return options.peak_tflops * 1e12
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    return next((tflops * 1e12 for known, tflops in PEAK_TFLOPS.items() if known in name), None)


def print_table(readings: dict[str, list[Reading]], options: argparse.Namespace) -> None:
    """The medians, beside the bare loop."""
    tokens, peak = options.batch * options.length, peak_flops(options)
    per_token = flops_per_token(options)
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    against = "unknown: give --peak-tflops" if peak is None else f"{peak / 1e12:g} TFLOP/s"
    print(
        f"{device}, torch {torch.__version__}, transformers {transformers.__version__}; peak {against}; "
        f"{per_token / 1e9:.3g} GFLOP/token; {options.batch} x {options.length} tokens a step"
        f"{', recomputed' if options.checkpointing else ''}{', compiled' if options.compile else ''}"
    )
    medians = {side: statistics.median(one.step_s for one in found) for side, found in readings.items()}
    for side, step_s in medians.items():
        rate = tokens / step_s
        mfu = "   ?" if peak is None else f"{rate * per_token / peak:5.1%}"
        spread = "  ".join(f"{one.step_s * 1e3:.1f}" for one in readings[side])
        memory = max(one.peak_bytes for one in readings[side]) / 2**30
        ratio = step_s / medians["bare"] if "bare" in medians else float("nan")
        print(
            f"  {side:18} {step_s * 1e3:8.1f} ms/step  {rate:9.0f} tokens/s  MFU {mfu}  {ratio:.3f} x bare  "
            f"{memory:6.2f} GiB at most  loss {readings[side][-1].loss:.3f}   of {spread} ms"
        )


def parse() -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=None, help="sequences of a step (4; tiny: 2)")
    parser.add_argument("--length", type=int, default=None, help="tokens of a sequence (2048; tiny: 32)")
    parser.add_argument("--steps", type=int, default=None, help="measured steps of a round (20; tiny: 4)")
    parser.add_argument("--warmup", type=int, default=None, help="steps before them (5; tiny: 2)")
    parser.add_argument("--rounds", type=int, default=None, help="rounds (3; tiny: 1)")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument(
        "--peak-tflops", type=float, help="of the device in dense bf16, if it is not known here"
    )
    parser.add_argument("--tiny", action="store_true", help="a model of 0.1 M parameters; also on a CPU")
    options = parser.parse_args()
    usual = {"batch": (4, 2), "length": (2048, 32), "steps": (20, 4), "warmup": (5, 2), "rounds": (3, 1)}
    for name, (full, tiny) in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, tiny if options.tiny else full)
    if options.tiny:
        torch.set_num_threads(1)
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def main() -> None:
    """Run the rounds and print the table."""
    options = parse()
    if options.device == "cpu" and not options.tiny:
        print("No GPU, so nothing is measured. --tiny shows on a CPU that this script works.")
        return
    readings: dict[str, list[Reading]] = {side: [] for side in options.sides}
    for number in range(options.rounds):
        turn = number % len(options.sides)
        for side in options.sides[turn:] + options.sides[:turn]:
            readings[side].append(measure(side, options))
    print_table(readings, options)


if __name__ == "__main__":
    main()
