"""Tag words: a collator for tokens, and a metric over lists of strings."""

from dataclasses import dataclass

import evaluate
import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)


@dataclass
class Files:
    train_file: str
    model: str = "bert"


def main():
    files, args = HfArgumentParser((Files, TrainingArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    rows = load_dataset("json", data_files={"train": files.train_file})["train"]
    names = sorted({tag for tags in rows["tags"] for tag in tags})
    tokenizer = AutoTokenizer.from_pretrained(files.model)
    model = AutoModelForTokenClassification.from_pretrained(
        files.model, num_labels=len(names), id2label=dict(enumerate(names))
    )

    def tokenize(batch):
        tokens = tokenizer(batch["words"], truncation=True, is_split_into_words=True, max_length=64)
        tokens["labels"] = [
            [-100 if word is None else names.index(tags[word]) for word in tokens.word_ids(row)]
            for row, tags in enumerate(batch["tags"])
        ]
        return tokens

    rows = rows.map(tokenize, batched=True)
    metric = evaluate.load("seqeval")

    def compute_metrics(prediction):
        found, right = np.argmax(prediction.predictions, axis=2), prediction.label_ids
        pairs = [
            [(names[one], names[other]) for one, other in zip(*line, strict=True) if other != -100]
            for line in zip(found, right, strict=True)
        ]
        results = metric.compute(
            predictions=[[one for one, _ in line] for line in pairs],
            references=[[other for _, other in line] for line in pairs],
        )
        return {"f1": results["overall_f1"], "accuracy": results["overall_accuracy"]}

    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=compute_metrics,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate())


if __name__ == "__main__":
    main()
