"""Continue text: blocks of tokens, and logits that are reduced before they are gathered."""

from dataclasses import dataclass
from itertools import chain

import evaluate
from datasets import load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


@dataclass
class Files:
    train_file: str
    model: str = "gpt2"
    block_size: int = 16


def main():
    files, args = HfArgumentParser((Files, TrainingArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    rows = load_dataset("text", data_files={"train": files.train_file})["train"]
    tokenizer = AutoTokenizer.from_pretrained(files.model)
    model = AutoModelForCausalLM.from_pretrained(files.model)
    tokens = rows.map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns=["text"])

    def group(batch):
        joined = {name: list(chain(*lists)) for name, lists in batch.items()}
        end = len(joined["input_ids"]) // files.block_size * files.block_size
        blocks = {
            name: [values[at : at + files.block_size] for at in range(0, end, files.block_size)]
            for name, values in joined.items()
        }
        blocks["labels"] = blocks["input_ids"].copy()
        return blocks

    blocks = tokens.map(group, batched=True)
    metric = evaluate.load("accuracy")

    def preprocess_logits_for_metrics(logits, labels):
        return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)

    def compute_metrics(prediction):
        found, right = prediction.predictions[:, :-1].reshape(-1), prediction.label_ids[:, 1:].reshape(-1)
        return metric.compute(predictions=found, references=right)

    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=blocks,
        eval_dataset=blocks,
        processing_class=tokenizer,
        data_collator=default_data_collator,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=preprocess_logits_for_metrics,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate())


if __name__ == "__main__":
    main()
