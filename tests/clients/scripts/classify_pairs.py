"""Classify pairs of sentences: a metric of `evaluate`, files, metrics and state saved, predictions in the end."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import evaluate
import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)


@dataclass
class Files:
    train_file: str = field(metadata={"help": "CSV with sentence1, sentence2 and label."})
    model: str = "bert"


def main():
    files, args = HfArgumentParser((Files, TrainingArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    rows = load_dataset("csv", data_files={"train": files.train_file})["train"]
    tokenizer = AutoTokenizer.from_pretrained(files.model)
    model = AutoModelForSequenceClassification.from_pretrained(files.model, num_labels=2)
    with args.main_process_first(desc="tokenizing"):
        rows = rows.map(
            lambda batch: tokenizer(batch["sentence1"], batch["sentence2"], truncation=True, max_length=32),
            batched=True,
        )
    metric = evaluate.load("accuracy")

    def compute_metrics(prediction):
        scores = (
            prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        )
        return metric.compute(predictions=np.argmax(scores, axis=1), references=prediction.label_ids)

    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
    )
    result = trainer.train()
    metrics = result.metrics | {"train_samples": len(rows)}
    trainer.save_model()
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    metrics = trainer.evaluate(eval_dataset=rows)
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    scores = trainer.predict(rows.remove_columns("label"), metric_key_prefix="predict").predictions
    if trainer.is_world_process_zero():
        Path(args.output_dir, "predicted.json").write_text(json.dumps(np.argmax(scores, axis=1).tolist()))


if __name__ == "__main__":
    main()
