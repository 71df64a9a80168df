"""Stop when the evaluation gets no better, and keep the best weights.

python examples/early_stopping.py                      # 200 images of scikit-learn's digits, soon learnt by heart
python examples/early_stopping.py --patience 5 --num_workers 0
"""

import argparse
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.datasets import load_digits
from transformers import EvalPrediction, ViTConfig, ViTForImageClassification

from raytrainer import EarlyStoppingCallback, Trainer, TrainingArguments


def read_digits() -> tuple[Dataset, Dataset]:
    """Few images to train on, so that a model soon knows them by heart, and the others to test."""
    digits: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images / 8 - 1).astype("float32")[:, None]
    parts = (
        {"pixel_values": images[part], "labels": digits.target[part]} for part in (order[:200], order[1000:])
    )
    first, second = (Dataset.from_dict(part).with_format("torch") for part in parts)
    return first, second


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of right answers."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


def main() -> None:
    """Train until the loss of the test set rises."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patience", type=int, default=3, help="evaluations without a better one")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=2000, help="a bound that is not reached")
    parser.add_argument("--output_dir", default="runs/early-stopping")
    options = parser.parse_args()

    train, test = read_digits()
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, num_labels=10, initializer_range=0.1, **sizes
    )
    args = TrainingArguments(
        output_dir=options.output_dir,
        num_workers=options.num_workers,
        max_steps=options.max_steps,
        per_device_train_batch_size=20,
        per_device_eval_batch_size=200,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=20,
        eval_strategy="steps",
        eval_steps=20,
        save_steps=20,
        save_total_limit=1,  # the best checkpoint is kept beside it
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    trainer = Trainer(
        model=ViTForImageClassification(config),
        args=args,
        train_dataset=train,
        eval_dataset=test,
        compute_metrics=accuracy,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=options.patience)],
    )
    trainer.train()
    state, found = trainer.state, trainer.evaluate()
    print(
        f"stopped after {state.global_step} of {options.max_steps} steps; the best step was {state.best_global_step}"
    )
    print(f"its loss {state.best_metric:.3f} is the loss of the weights now, {found['eval_loss']:.3f}")
    print(f"accuracy {found['eval_accuracy']:.3f} on {len(test)} images that training never saw")
    trainer.end()


if __name__ == "__main__":
    main()
