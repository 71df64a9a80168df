"""The hooks of a search: what a trial's values change, and what is told of each evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import raytrainer
from tests.parity.twins import make_model, make_samples


class Tells(raytrainer.Trainer):
    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:
        self.told = [*getattr(self, "told", []), (trial, step, "eval_loss" in metrics)]
        super()._report_to_hp_search(trial, step, metrics)


def make(kind: type[raytrainer.Trainer], directory: Path, **changes: Any) -> Any:
    values = {
        "output_dir": str(directory),
        "num_workers": 0,
        "use_cpu": True,
        "report_to": [],
        "max_steps": 4,
    }
    args = raytrainer.TrainingArguments(**{**values, **changes})
    samples = make_samples()
    return kind(model=make_model(), args=args, train_dataset=samples, eval_dataset=samples)


def test_each_evaluation_of_a_training_is_reported_with_its_step(tmp_path: Path) -> None:
    trainer = make(Tells, tmp_path, eval_strategy="steps", eval_steps=2, eval_on_start=True)
    trainer.train()
    assert trainer.told == [(None, 0, True), (None, 2, True), (None, 4, True)]


def test_an_evaluation_outside_of_training_is_not_reported(tmp_path: Path) -> None:
    trainer = make(Tells, tmp_path)
    trainer.evaluate()
    assert not hasattr(trainer, "told")


def test_values_of_a_trial_are_set_and_what_only_model_init_reads_is_kept(tmp_path: Path) -> None:
    trainer = make(raytrainer.Trainer, tmp_path)
    before = trainer.args
    trial = {"learning_rate": 3e-3, "per_device_train_batch_size": 2, "width": 8}
    trainer._hp_search_setup(trial)
    assert (trainer.args.learning_rate, trainer.args.per_device_train_batch_size) == (3e-3, 2)
    assert trainer._train_batch_size == 2
    assert trainer._trial == trial
    assert before.learning_rate != 3e-3, "the arguments of the sweep stay as they are"


def test_outside_of_a_search_nothing_is_set(tmp_path: Path) -> None:
    trainer = make(raytrainer.Trainer, tmp_path)
    before = trainer.args
    trainer._hp_search_setup(None)
    assert trainer.args is before
    assert trainer._trial is None
