"""What optimizers cost: bytes of state for the targeted matrices, bytes of gradients, time of a step.

    python benchmarks/optimizers.py

State and gradients are counted, not timed, on a Llama of 6 M parameters with rank = hidden / 4, the ratio of the
GaLore paper; the projections count as state. The formula is that of the paper (table 1): for W of [m, n], m <= n, AdamW
holds 2 m n and GaLore m r + 2 n r elements; over ranks of FSDP2 each holds its share. Times are those of whole
training steps, with and without a new projection, beside those of ``transformers.Trainer`` with galore-torch.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers

import raytrainer

HIDDEN = 256
RANK = HIDDEN // 4


def make_model() -> transformers.LlamaForCausalLM:
    """A Llama in which the layers dominate."""
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=512,
            hidden_size=HIDDEN,
            intermediate_size=HIDDEN * 8 // 3 // 64 * 64,
            num_hidden_layers=8,
            num_attention_heads=4,
        )
    )


class Counter(transformers.TrainerCallback):
    """Bytes of live gradients, seconds of each step, bytes of state of the matrices."""

    def __init__(self) -> None:
        self.gradients = 0
        self.seconds: list[float] = []
        self.state = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = list(kwargs["model"].parameters())

        def count(gradient: torch.Tensor) -> None:
            # Before this gradient is stored or used: its bytes, and those of the gradients still alive.
            live = sum(p.grad.numel() for p in parameters if p.grad is not None) + gradient.numel()
            self.gradients = max(self.gradients, live * 4)

        for parameter in parameters:
            parameter.register_hook(count)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._began)
        held = kwargs["optimizer"].state
        self.state = sum(
            local(value).numel() * value.element_size()
            for parameter in matrices(kwargs["model"])
            for name, value in held.get(parameter, {}).items()
            # All parameters share one table of 8-bit values.
            if isinstance(value, torch.Tensor) and not name.startswith("qmap")
        )


def local(value: Any) -> torch.Tensor:
    """The part of a tensor on this rank."""
    return value.to_local() if hasattr(value, "to_local") else value


def matrices(model: Any) -> list[torch.nn.Parameter]:
    """The weights of the linear layers of the blocks."""
    return [p for name, p in model.named_parameters() if p.dim() == 2 and "layers" in name]


def run(name: str, directory: Path, library: Any = raytrainer, **options: Any) -> Counter:
    """Six steps, with a new projection at the first and the fourth."""
    counter = Counter()
    targets: dict[str, Any] = {}
    if "galore" in name:
        targets = {
            "optim_target_modules": ["attn", "mlp"],
            "optim_args": f"rank={RANK}, update_proj_gap=3",
        }
    if library is raytrainer:
        options = {"num_workers": int(os.environ.get("WORLD_SIZE", "0")), **options}
    args = library.TrainingArguments(
        output_dir=str(directory / name),
        use_cpu=True,
        disable_tqdm=True,
        optim=name,
        max_steps=6,
        per_device_train_batch_size=4,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        **targets,
        **options,
    )
    samples = [{"input_ids": torch.arange(64), "labels": torch.arange(64)}] * 32
    library.Trainer(model=make_model(), args=args, train_dataset=samples, callbacks=[counter]).train()
    return counter


ON_RANKS = ("adamw_torch", "galore_adamw", "galore_adamw_8bit", "galore_adamw_layerwise")


def count_on_ranks(target: Path) -> None:
    """All ranks: write the bytes of state of each rank, by backend and optimizer."""
    found = {}
    for backend, options in (("DDP", {}), ("FSDP2", {"fsdp": True})):
        for name in ON_RANKS:
            own = run(name, target.parent / backend, **options).state
            everybody: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everybody, own)
            found[f"{backend} {name}"] = everybody
    if dist.get_rank() == 0:
        target.write_text(json.dumps(found))
    dist.barrier()


def print_ranks(formula: dict[str, float]) -> None:
    """State of each of two ranks, against the formula: all of it under DDP, half of it under FSDP2."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "found.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([*launcher, __file__, str(target)], check=True, stdout=subprocess.DEVNULL)
        found = json.loads(target.read_text())
    print("\nState of the matrices on each of two ranks")
    for name, sizes in found.items():
        backend, optimizer = name.split()
        wanted = formula[optimizer.removesuffix("_layerwise")] / (2 if backend == "FSDP2" else 1)
        parts = ", ".join(f"{size / 1e6:6.2f} MB (/ formula {size / wanted:.3f})" for size in sizes)
        less = 1 - max(sizes) / (formula["adamw_torch"] / (2 if backend == "FSDP2" else 1))
        print(f"  {name:32} {parts}   {less:6.1%} less than AdamW")


def main() -> None:
    """Run all and print the ratios."""
    names = (
        "adamw_torch",
        "adafactor",
        "galore_adamw",
        "galore_adamw_8bit",
        "galore_adamw_layerwise",
        "lomo",
        "adalomo",
    )
    with tempfile.TemporaryDirectory() as directory:
        found = {name: run(name, Path(directory)) for name in names}
    shapes = [sorted(p.shape) for p in matrices(make_model())]
    formula = {
        "adamw_torch": sum(2 * m * n * 4 for m, n in shapes),
        "galore_adamw": sum((m * RANK + 2 * n * RANK) * 4 for m, n in shapes),
        "galore_adamw_8bit": sum(m * RANK * 4 + 2 * n * RANK * (1 + 4 / 256) for m, n in shapes),
    }
    whole, all_gradients = found["adamw_torch"].state, found["adamw_torch"].gradients
    layer = max(sum(p.numel() * 4 for p in one.parameters()) for one in make_model().model.layers)
    print(
        f"\nState of the matrices, rank {RANK} of {HIDDEN}, and live gradients (a layer has {layer / 1e6:.2f} MB)"
    )
    for name, counter in found.items():
        wanted = formula.get(name)
        against = f"   / formula {counter.state / wanted:.3f}" if wanted else ""
        print(
            f"  {name:24} state {counter.state / 1e6:7.2f} MB ({1 - counter.state / whole:6.1%} less)   gradients "
            f"{counter.gradients / 1e6:6.2f} MB ({counter.gradients / all_gradients:.3f}){against}"
        )
    base = statistics.median(found["adamw_torch"].seconds[1:])
    low = found["galore_adamw"].seconds
    with tempfile.TemporaryDirectory() as directory:
        theirs = run("galore_adamw", Path(directory), library=transformers).seconds
    print("\nTime of a training step")
    for what, steps in (("between projections", (1, 2, 4, 5)), ("with a projection", (3,))):
        mine, other = (statistics.median(seconds[step] for step in steps) for seconds in (low, theirs))
        print(
            f"  galore_adamw {what:20} / adamw_torch {mine / base:.2f}   / transformers' {mine / other:.2f}"
        )
    print_ranks(formula)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        count_on_ranks(Path(sys.argv[1]))
    else:
        main()
