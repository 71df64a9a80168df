"""Translate lines: sequences are generated in the evaluation, and decoded for a metric over text."""

from dataclasses import dataclass

import evaluate
import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)


@dataclass
class Files:
    train_file: str
    model: str = "t5"


def main():
    files, args = HfArgumentParser((Files, Seq2SeqTrainingArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    rows = load_dataset("json", data_files={"train": files.train_file})["train"]
    tokenizer = AutoTokenizer.from_pretrained(files.model)
    model = AutoModelForSeq2SeqLM.from_pretrained(files.model)

    def tokenize(batch):
        pairs = batch["translation"]
        return tokenizer(
            [pair["en"] for pair in pairs],
            text_target=[pair["de"] for pair in pairs],
            truncation=True,
            max_length=24,
        )

    rows = rows.map(tokenize, batched=True, remove_columns=["translation"])
    metric = evaluate.load("sacrebleu")

    def compute_metrics(prediction):
        found, right = (
            tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True)
            for ids in (prediction.predictions, prediction.label_ids)
        )
        result = metric.compute(predictions=found, references=[[line.strip()] for line in right])
        return {"bleu": result["score"], "gen_len": float(np.mean([len(line) for line in found]))}

    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=-100),
        compute_metrics=compute_metrics,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate(max_length=12, num_beams=2))


if __name__ == "__main__":
    main()
