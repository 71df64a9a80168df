"""Put a Trainer into a ray.tune.Tuner of your own: as a trainable, or in a function that you wrote.

python examples/tune_by_hand.py              # raytrainer.tune.trainable(trainer)
python examples/tune_by_hand.py --function   # a function that makes a Trainer and trains it
"""

import argparse
import os
from typing import Any

import ray
import torch
from ray import tune

import raytrainer.tune
from raytrainer import Trainer, TrainingArguments

# isort: split
# After raytrainer, because models import libraries that tell what they lack on this machine.
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class Digits(PreTrainedModel):
    """Two layers that read a digit."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, config.width), torch.nn.ReLU(), torch.nn.Linear(config.width, 10)
        )
        self.post_init()

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> SequenceClassifierOutput:
        """Classify ``[batch, 64]`` pixels."""
        logits = self.layers(pixels)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def samples() -> list[dict[str, torch.Tensor]]:
    """The 1,797 digits of scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.tensor(digits.data / 16, dtype=torch.float32)
    return [
        {"pixels": one, "labels": torch.tensor(label)}
        for one, label in zip(pixels, digits.target, strict=True)
    ]


def model_init(trial: Any) -> Digits:
    """A model as wide as the trial asks for."""
    return Digits(PretrainedConfig(width=(trial or {}).get("width", 16)))


def accuracy(prediction: Any) -> dict[str, float]:
    """Accuracy."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def make_trainer(output_dir: str, **values: Any) -> Trainer:
    """A trainer for the digits."""
    rows = samples()
    args = TrainingArguments(
        output_dir=output_dir,
        max_steps=60,
        per_device_train_batch_size=32,
        eval_strategy="steps",
        eval_steps=20,
        save_steps=20,
        report_to="none",
        **values,
    )
    return Trainer(
        model_init=model_init,
        args=args,
        train_dataset=rows[300:],
        eval_dataset=rows[:300],
        compute_metrics=accuracy,
    )


def train(config: dict[str, Any]) -> None:
    """A trial: the workers of this Trainer run in what Tune reserved for the trial."""
    directory = os.path.join(os.environ["DIGITS_RUNS"], tune.get_context().get_trial_id())
    trainer = make_trainer(directory, num_workers=1, learning_rate=config["learning_rate"])
    raytrainer.tune.report_evaluations(trainer)
    trainer.train()
    trainer.end()


def main() -> None:
    """Run four trials, and print the best one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--function", action="store_true", help="write the trial as a function")
    parser.add_argument("--output_dir", default="runs/tune-by-hand")
    options = parser.parse_args()
    directory = os.path.abspath(options.output_dir)
    ray.init(include_dashboard=False, runtime_env={"env_vars": {"DIGITS_RUNS": directory}})

    space = {"learning_rate": tune.loguniform(1e-4, 1e-1)}
    if options.function:
        trial: Any = train
    else:
        trial = raytrainer.tune.trainable(make_trainer(directory, num_workers=1))
        space["width"] = tune.choice([8, 32])
    results = tune.Tuner(
        trial,
        param_space=space,
        tune_config=tune.TuneConfig(num_samples=4, metric="eval_accuracy", mode="max", reuse_actors=True),
        run_config=tune.RunConfig(storage_path=directory, verbose=1),
    ).fit()
    best = results.get_best_result()
    print(
        f"best: {best.config}, accuracy {best.metrics['eval_accuracy']:.3f}, checkpoint {best.metrics['checkpoint']}"
    )


if __name__ == "__main__":
    main()
