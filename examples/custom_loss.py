"""Two ways to use your own loss: override ``compute_loss``, or pass ``compute_loss_func``.

python examples/custom_loss.py                     # a subclass of the Trainer weights the classes
python examples/custom_loss.py --as_function       # the same loss as a function
python examples/custom_loss.py --rare_weight 1     # the plain loss, to compare
python examples/custom_loss.py --model google/vit-base-patch16-224-in21k --data beans --learning_rate 5e-5

The training split of scikit-learn's digits is left with few nines; a higher weight finds more of the nines in the test
set. With other data, the class with the fewest rows gets the higher weight.
"""

import argparse
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from torch.nn.functional import cross_entropy

from raytrainer import EvalPrediction, Trainer, TrainingArguments

# isort: split
# After raytrainer, because models import libraries that tell what they lack on this machine.
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

RARE, KEPT = 9, 8
"""The rare digit, and how many images of it are kept for training."""


class WeightedTrainer(Trainer):
    """Weights classes by ``class_weights``; the Trainer scales the mean over a batch."""

    class_weights: torch.Tensor

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = cross_entropy(outputs.logits, labels, weight=self.class_weights.to(outputs.logits.device))
        return (loss, outputs) if return_outputs else loss


class WeightedLoss:
    """The same as a function: a callable object, which takes its weights to the workers."""

    def __init__(self, class_weights: torch.Tensor) -> None:
        self.class_weights = class_weights

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        weights = self.class_weights.to(outputs.logits.device)
        return cross_entropy(outputs.logits, labels, weight=weights)


def read_digits() -> tuple[Dataset, Dataset]:
    """Training data with few nines, and a test set with all of them."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    test, train = order[:400], order[400:]
    rare = train[digits.target[train] == RARE]
    train = np.setdiff1d(train, rare[KEPT:])
    images = (digits.images / 8 - 1).astype("float32")[:, None]
    parts = ({"pixel_values": images[part], "labels": digits.target[part]} for part in (train, test))
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


class Recall:
    """Accuracy on all images, and on those of the rare class."""

    def __init__(self, rare: int) -> None:
        self.rare = rare

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        is_right = np.argmax(prediction.predictions, axis=-1) == prediction.label_ids
        return {
            "accuracy": float(is_right.mean()),
            "rare_recall": float(is_right[prediction.label_ids == self.rare].mean()),
        }


def main() -> None:
    """Train with a weighted loss."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", help="hub id or path, together with --data; a small untrained ViT by default"
    )
    parser.add_argument("--data", help="hub name of images with labels; scikit-learn's digits by default")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument(
        "--as_function", action="store_true", help="use compute_loss_func instead of a subclass"
    )
    parser.add_argument("--rare_weight", type=float, default=15.0, help="weight of the rare class")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=200)
    parser.add_argument("--output_dir", default="runs/custom-loss")
    options = parser.parse_args()

    if (options.model is None) != (options.data is None):
        parser.error("--model and --data go together: the sizes of images must fit the model")

    if options.data:
        rows, num_labels = read_hub(options.data, options.model)
        rare = int(np.argmin(np.bincount(rows.with_format("numpy")["labels"][:], minlength=num_labels)))
        train, test = rows.train_test_split(test_size=0.2, seed=0).values()
        model = AutoModelForImageClassification.from_pretrained(
            options.model, num_labels=num_labels, ignore_mismatched_sizes=True
        )
    else:
        (train, test), model, num_labels, rare = read_digits(), small_vit(), 10, RARE
    weights = torch.ones(num_labels)
    weights[rare] = options.rare_weight
    args = TrainingArguments(
        output_dir=options.output_dir,
        num_workers=options.num_workers,
        max_steps=options.max_steps,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=100,
        learning_rate=options.learning_rate,
        warmup_steps=20,
        logging_steps=50,
        save_strategy="no",
        remove_unused_columns=False,  # images become pixel values as they are read
    )
    data = {"train_dataset": train, "eval_dataset": test, "compute_metrics": Recall(rare)}
    if options.as_function:
        trainer = Trainer(model=model, args=args, compute_loss_func=WeightedLoss(weights), **data)
    else:
        trainer = WeightedTrainer(model=model, args=args, **data)
        trainer.class_weights = weights
    trainer.train()
    found = trainer.evaluate()
    print(f"accuracy {found['eval_accuracy']:.3f}; recall of the rare class {found['eval_rare_recall']:.3f}")
    trainer.end()


if __name__ == "__main__":
    main()
