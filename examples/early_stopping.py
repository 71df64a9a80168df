"""Stop when the evaluation no longer improves, and keep the best weights.

python examples/early_stopping.py                      # 200 images of scikit-learn's digits, soon memorized
python examples/early_stopping.py --patience 5 --num_workers 0
python examples/early_stopping.py --model google/vit-base-patch16-224-in21k --data beans --learning_rate 5e-5
"""

import argparse
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset

from raytrainer import EarlyStoppingCallback, EvalPrediction, Trainer, TrainingArguments

# isort: split
# After raytrainer, because models import libraries that tell what they lack on this machine.
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)


def read_digits() -> tuple[Dataset, Dataset]:
    """A few images to train on, so that a model soon memorizes them, and the others to test."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images / 8 - 1).astype("float32")[:, None]
    parts = (
        {"pixel_values": images[part], "labels": digits.target[part]} for part in (order[:200], order[1000:])
    )
    first, second = (Dataset.from_dict(part).with_format("torch") for part in parts)
    return first, second


def small_vit() -> ViTForImageClassification:
    """An untrained vision transformer of 0.1 million parameters, with patches of 2 by 2 pixels."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, num_labels=10, initializer_range=0.1, **sizes
    )
    return ViTForImageClassification(config)


def read_hub(data: str, model: str) -> tuple[Dataset, int]:
    """Rows of a Hub dataset with an ``image`` and a ``labels`` or ``label`` column, preprocessed as they are read."""
    rows, processor = load_dataset(data, split="train"), AutoImageProcessor.from_pretrained(model)
    if "label" in rows.column_names:
        rows = rows.rename_column("label", "labels")

    def prepare(batch: dict[str, Any]) -> dict[str, Any]:
        images = [image.convert("RGB") for image in batch["image"]]
        return {**processor(images, return_tensors="pt"), "labels": torch.tensor(batch["labels"])}

    return rows.with_transform(prepare), rows.features["labels"].num_classes


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


def main() -> None:
    """Train until the loss on the test set rises."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", help="hub id or path, together with --data; a small untrained ViT by default"
    )
    parser.add_argument("--data", help="hub name of images with labels; scikit-learn's digits by default")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--patience", type=int, default=3, help="evaluations without improvement")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=2000, help="an upper bound that is not reached")
    parser.add_argument("--output_dir", default="runs/early-stopping")
    options = parser.parse_args()

    if (options.model is None) != (options.data is None):
        parser.error("--model and --data go together: the sizes of images must fit the model")

    if options.data:
        rows, num_labels = read_hub(options.data, options.model)
        train, test = rows.train_test_split(test_size=0.2, seed=0).values()
        model = AutoModelForImageClassification.from_pretrained(
            options.model, num_labels=num_labels, ignore_mismatched_sizes=True
        )
    else:
        (train, test), model = read_digits(), small_vit()
    args = TrainingArguments(
        output_dir=options.output_dir,
        num_workers=options.num_workers,
        max_steps=options.max_steps,
        per_device_train_batch_size=20,
        per_device_eval_batch_size=200,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        logging_steps=20,
        eval_strategy="steps",
        eval_steps=20,
        save_steps=20,
        save_total_limit=1,  # the best checkpoint is kept as well
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        remove_unused_columns=False,  # images become pixel values as they are read
    )
    trainer = Trainer(
        model=model,
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
    print(f"best loss {state.best_metric:.3f}; loss of the weights that were kept {found['eval_loss']:.3f}")
    print(f"accuracy {found['eval_accuracy']:.3f} on {len(test)} held-out images")
    trainer.end()


if __name__ == "__main__":
    main()
