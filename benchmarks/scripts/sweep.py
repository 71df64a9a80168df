"""The sweep that ``benchmarks/sweep.py`` measures, on one of three sides."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from task import arguments, make_model, make_samples, mark

SPACE = {"learning_rate": tune.loguniform(1e-5, 1e-2)}


def options() -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=sorted(SIDES), required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--max_steps", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--trials", type=int, required=True)
    return parser.parse_args()


def settings(directory: Path, max_steps: int) -> dict[str, Any]:
    """The arguments of every trial."""
    every = max_steps // 2
    return arguments(directory, max_steps) | {
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_steps": every,
        "logging_steps": every,
    }


def model_init(trial: Any = None) -> Any:
    """A model for a trial."""
    return make_model()


def with_raytrainer(asked: argparse.Namespace) -> list[float]:
    """Trials as raytrainer runs them; returns what each later trial took besides its steps [s]."""
    from raytrainer import Trainer, TrainingArguments

    args = TrainingArguments(num_workers=asked.workers, **settings(asked.directory, asked.max_steps))
    trainer = Trainer(
        model_init=model_init, args=args, train_dataset=make_samples(), eval_dataset=make_samples(16)
    )
    best = trainer.hyperparameter_search(SPACE, n_trials=asked.trials)
    extra = []
    for trial in best.run_summary.trials:
        assert trial.state == "finished", trial.error
        state = json.loads(Path(trial.last_checkpoint or "", "trainer_state.json").read_text())
        steps_s = sum(row.get("eval_runtime", 0) for row in state["log_history"])
        extra.append(trial.seconds - steps_s)
    # The first trial at each place starts its workers.
    return sorted(extra)[: -2 // asked.workers or None]


def with_transformers(asked: argparse.Namespace) -> list[float]:
    """Trials as transformers runs them, one process each."""
    import transformers

    ray.init(address="local")  # as its search would, but never in an existing cluster
    args = transformers.TrainingArguments(**settings(asked.directory, asked.max_steps))
    trainer = transformers.Trainer(
        model_init=model_init, args=args, train_dataset=make_samples(), eval_dataset=make_samples(16)
    )
    trainer.hyperparameter_search(
        lambda trial: SPACE,
        backend="ray",
        n_trials=asked.trials,
        direction="minimize",
        compute_objective=lambda metrics: metrics["eval_loss"],
        storage_path=str(asked.directory / "ray-results"),
    )
    return []


def by_hand(asked: argparse.Namespace) -> list[float]:
    """A ``TorchTrainer`` in a function of Ray Tune, as Ray's documentation shows it."""
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    ray.init(address="local")

    def trial(config: dict[str, Any]) -> None:
        TorchTrainer(
            work_by_hand,
            train_loop_config={**config, "directory": asked.directory, "max_steps": asked.max_steps},
            scaling_config=ray.train.ScalingConfig(
                num_workers=asked.workers, resources_per_worker={"CPU": 0.9}
            ),
            run_config=ray.train.RunConfig(
                name=tune.get_context().get_trial_id(),
                storage_path=str(asked.directory / "ray-results"),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    tune.Tuner(
        tune.with_resources(trial, {"cpu": 0.1}),
        param_space=SPACE,
        tune_config=tune.TuneConfig(num_samples=asked.trials, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(asked.directory / "ray-results")),
    ).fit()
    return []


def work_by_hand(config: dict[str, Any]) -> None:
    """On each worker of a trial: train."""
    import ray.train.huggingface.transformers as bridge
    import transformers

    directory = Path(config["directory"]) / str(config["learning_rate"])
    args = settings(directory, config["max_steps"]) | {"learning_rate": config["learning_rate"]}
    trainer = transformers.Trainer(
        model=make_model(),
        args=transformers.TrainingArguments(**args),
        train_dataset=make_samples(),
        eval_dataset=make_samples(16),
        callbacks=[bridge.RayTrainReportCallback()],
    )
    bridge.prepare_trainer(trainer).train()


SIDES = {"raytrainer": with_raytrainer, "transformers": with_transformers, "by-hand": by_hand}


def main() -> None:
    """Sweep, and mark the end."""
    asked = options()
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    began = time.time()
    extra = SIDES[asked.side](asked)
    mark(asked.directory, "swept", seconds=time.time() - began, extra_s=extra)


if __name__ == "__main__":
    main()
