"""The script of a user of raytrainer."""

from __future__ import annotations

from raytrainer import Trainer, TrainingArguments

from task import NUM_WORKERS, Marks, arguments, make_model, make_samples, mark, options  # isort: skip


def main() -> None:
    """Train, and evaluate if asked to."""
    asked = options()
    trainer = Trainer(
        model=make_model(),
        args=TrainingArguments(
            num_workers=(1, NUM_WORKERS) if asked.elastic else NUM_WORKERS,
            ray_address=asked.address,
            **arguments(asked.directory, asked.max_steps),
        ),
        train_dataset=make_samples(),
        eval_dataset=make_samples(16),
        callbacks=[Marks(asked.directory, kills=asked.kill, step_s=asked.step_s)],
    )
    trainer.train()
    if asked.evaluate:
        mark(asked.directory, "trained")
        metrics = trainer.evaluate()
        mark(asked.directory, "metrics", loss=metrics["eval_loss"])
        mark(asked.directory, "evaluated")
    trainer.end()


if __name__ == "__main__":
    main()
