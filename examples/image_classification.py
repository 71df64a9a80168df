"""Train a small vision transformer to read handwritten digits, on two Ray workers.

python examples/image_classification.py                          # 1,797 digits of scikit-learn, offline
python examples/image_classification.py --num_workers 0          # in this process, without Ray
python examples/image_classification.py --model google/vit-base-patch16-224-in21k --data beans --learning_rate 5e-5
"""

import argparse
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset

from raytrainer import EvalPrediction, Trainer, TrainingArguments

# isort: split
# After raytrainer, because models import libraries that tell what they lack on this machine.
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)


def read_digits() -> Dataset:
    """Images of 8 by 8 pixels in [-1, 1], and the digit that each shows."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = (digits.images / 8 - 1).astype("float32")
    return Dataset.from_dict({"pixel_values": images[:, None], "labels": digits.target}).with_format("torch")


def small_vit() -> ViTForImageClassification:
    """An untrained vision transformer of 0.1 million parameters, with patches of 2 by 2 pixels."""
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=10,
        initializer_range=0.1,  # of so few inputs a patch; the usual 0.02 learns slowly
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
    """Read, train, evaluate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", help="hub id or path, together with --data; a small untrained ViT by default"
    )
    parser.add_argument("--data", help="hub name of images with labels; scikit-learn's digits by default")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=32, help="per worker")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--output_dir", default="runs/image-classification")
    options = parser.parse_args()
    if (options.model is None) != (options.data is None):
        parser.error("--model and --data go together: the sizes of images must fit the model")

    if options.data:
        rows, num_labels = read_hub(options.data, options.model)
        model = AutoModelForImageClassification.from_pretrained(
            options.model, num_labels=num_labels, ignore_mismatched_sizes=True
        )
    else:
        rows, model = read_digits(), small_vit()
    split = rows.train_test_split(test_size=0.2, seed=0)
    args = TrainingArguments(
        output_dir=options.output_dir,
        num_workers=options.num_workers,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=100,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        logging_steps=50,
        eval_strategy="steps",
        eval_steps=50,
        save_strategy="no",
        remove_unused_columns=False,  # images become pixel values as they are read
    )
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=split["train"],
        eval_dataset=split["test"],
        compute_metrics=accuracy,
    )
    trainer.train()
    found = trainer.evaluate()["eval_accuracy"]
    print(f"accuracy {found:.3f} on {len(split['test'])} held-out images")
    trainer.save_model(f"{options.output_dir}/model")
    trainer.end()


if __name__ == "__main__":
    main()
