"""The same with ``transformers.Trainer`` in Ray Train, by hand as in Ray's documentation."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import ray.train
import ray.train.huggingface.transformers as bridge
import transformers
from ray.train.torch import TorchTrainer
from task import NUM_WORKERS, Marks, arguments, make_model, make_samples, mark, options


def work(config: dict[str, Any]) -> None:
    """On each worker: train, or evaluate the checkpoint that was passed."""
    trainer = transformers.Trainer(
        model=make_model(),
        args=transformers.TrainingArguments(**arguments(config["directory"], config["max_steps"])),
        train_dataset=make_samples(),
        eval_dataset=make_samples(16),
        callbacks=[
            Marks(config["directory"], kills=config["kill"], step_s=config["step_s"]),
            bridge.RayTrainReportCallback(),
        ],
    )
    trainer = bridge.prepare_trainer(trainer)
    with contextlib.ExitStack() as stack:
        checkpoint = config["checkpoint"] or ray.train.get_checkpoint()
        path = None
        if checkpoint is not None:
            folder = stack.enter_context(checkpoint.as_directory())
            path = str(Path(folder) / bridge.RayTrainReportCallback.CHECKPOINT_NAME)
        if config["checkpoint"] is None:
            trainer.train(resume_from_checkpoint=path)
            return
        trainer._load_from_checkpoint(path)
        metrics = trainer.evaluate()
        # A Result has metrics only together with a checkpoint, so rank 0 writes them to a file.
        if ray.train.get_context().get_world_rank() == 0:
            mark(config["directory"], "metrics", loss=metrics["eval_loss"])


def fit(asked: Any, name: str, checkpoint: Any = None) -> Any:
    """One run of Ray Train."""
    return TorchTrainer(
        work,
        train_loop_config={
            "directory": asked.directory,
            "max_steps": asked.max_steps,
            "kill": asked.kill,
            "step_s": asked.step_s,
            "checkpoint": checkpoint,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=(1, NUM_WORKERS) if asked.elastic else NUM_WORKERS
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(asked.directory / "ray-results"),
            failure_config=ray.train.FailureConfig(max_failures=3),
        ),
    ).fit()


def main() -> None:
    """Train, and evaluate if asked to."""
    asked = options()
    ray.init(address=asked.address)  # as fit() would, but never in a cluster that happens to run
    result = fit(asked, "train")
    if asked.evaluate:
        mark(asked.directory, "trained")
        fit(asked, "evaluate", result.checkpoint)
        mark(asked.directory, "evaluated")


if __name__ == "__main__":
    main()
