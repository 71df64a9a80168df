"""What optimizers hold and cost: bytes of state over the targeted matrices, bytes of gradients, time of a step.

    python benchmarks/optimizers.py

State and gradients are counted, not timed, on a Llama of 6 M parameters with rank = hidden / 4, the ratio of the
GaLore paper; the projections count as state. The formula is that of the paper (table 1): for W of [m, n], m <= n, AdamW
holds 2 m n and GaLore m r + 2 n r elements. Times are of whole training steps, with and without a new projection.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import raytrainer

HIDDEN = 256
RANK = HIDDEN // 4


def make_model() -> transformers.LlamaForCausalLM:
    """A Llama whose layers are most of it."""
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
            # Before it is kept or stepped: this gradient, and those that still live.
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
            value.numel() * value.element_size()
            for parameter in matrices(kwargs["model"])
            for name, value in held[parameter].items()
            # The table of 8-bit values is one for all parameters.
            if isinstance(value, torch.Tensor) and not name.startswith("qmap")
        )


def matrices(model: Any) -> list[torch.nn.Parameter]:
    """The weights of the linear layers of the blocks."""
    return [p for name, p in model.named_parameters() if p.dim() == 2 and "layers" in name]


def run(name: str, directory: Path) -> Counter:
    """Six steps, with a new projection at the first and the fourth."""
    counter = Counter()
    targets: dict[str, Any] = {}
    if "galore" in name:
        targets = {
            "optim_target_modules": ["attn", "mlp"],
            "optim_args": f"rank={RANK}, update_proj_gap=3",
        }
    args = raytrainer.TrainingArguments(
        output_dir=str(directory / name),
        num_workers=0,
        use_cpu=True,
        disable_tqdm=True,
        optim=name,
        max_steps=6,
        per_device_train_batch_size=4,
        save_strategy="no",
        logging_strategy="no",
        **targets,
    )
    samples = [{"input_ids": torch.arange(64), "labels": torch.arange(64)}] * 32
    raytrainer.Trainer(model=make_model(), args=args, train_dataset=samples, callbacks=[counter]).train()
    return counter


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
    print("\nTime of a training step against adamw_torch")
    print(f"  galore_adamw between projections {statistics.median([*low[1:3], *low[4:]]) / base:.2f}")
    print(f"  galore_adamw with a projection   {low[3] / base:.2f}")


if __name__ == "__main__":
    main()
