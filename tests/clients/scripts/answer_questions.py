"""Answer questions: a subclass and a helper in files beside the script, and another signature of evaluate()."""

from dataclasses import dataclass

import evaluate
from answering_trainer import AnsweringTrainer
from datasets import load_dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    EvalPrediction,
    HfArgumentParser,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


@dataclass
class Files:
    train_file: str
    model: str = "bert"


def main():
    files, args = HfArgumentParser((Files, TrainingArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    questions = load_dataset("json", data_files={"train": files.train_file}, field="data")["train"]
    tokenizer = AutoTokenizer.from_pretrained(files.model)
    model = AutoModelForQuestionAnswering.from_pretrained(files.model)

    def to_features(batch, indices):
        features = tokenizer(
            batch["question"], batch["context"], truncation="only_second", max_length=96, padding="max_length"
        )
        features["start_positions"] = [1] * len(indices)
        features["end_positions"] = [3] * len(indices)
        features["example"] = indices
        return features

    features = questions.map(
        to_features, batched=True, with_indices=True, remove_columns=questions.column_names
    )
    metric = evaluate.load("squad")

    def to_answers(questions, features, predictions):
        from answers import best_spans

        found = best_spans(questions, features, predictions)
        return EvalPrediction(
            predictions=[{"id": name, "prediction_text": text} for name, text in found.items()],
            label_ids=[{"id": row["id"], "answers": row["answers"]} for row in questions],
        )

    def compute_metrics(prediction):
        return metric.compute(predictions=prediction.predictions, references=prediction.label_ids)

    trainer = AnsweringTrainer(
        model=model,
        args=args,
        train_dataset=features,
        eval_dataset=features,
        questions=questions,
        processing_class=tokenizer,
        data_collator=default_data_collator,
        to_answers=to_answers,
        compute_metrics=compute_metrics,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate())
    found = trainer.predict(features, questions)
    trainer.save_metrics("predict", {"predict_answers": len(found.predictions)})


if __name__ == "__main__":
    main()
