"""When to evaluate, save and log, which checkpoint is best, and which are kept: as in ``transformers.Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import raytrainer
from tests.parity.twins import LIBRARIES, TOLERANCE, make_args, make_model, make_samples

STEPS = {"eval_strategy": "steps", "save_strategy": "steps"}
RUNS: dict[str, dict[str, Any]] = {
    "fractions": {**STEPS, "eval_steps": 0.25, "save_steps": 0.5, "logging_steps": 0.1, "warmup_steps": 0.2},
    "epochs": {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "max_steps": -1,
        "num_train_epochs": 3,
        "load_best_model_at_end": True,
        "save_total_limit": 1,
    },
    "best": {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "best",
        "metric_for_best_model": "loss",
    },
    "greatest": {
        **STEPS,
        "eval_steps": 2,
        "save_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": True,
        "save_total_limit": 2,
    },
    "one": {**STEPS, "eval_steps": 3, "save_steps": 3, "load_best_model_at_end": True, "save_total_limit": 1},
    "two": {
        **STEPS,
        "eval_steps": 2,
        "save_steps": 2,
        "metric_for_best_model": "loss",
        "save_total_limit": 2,
    },
    "never": {"eval_strategy": "no", "save_strategy": "no", "logging_strategy": "no", "eval_on_start": False},
    "delayed": {
        **STEPS,
        "eval_steps": 2,
        "save_steps": 4,
        "eval_delay": 5,
        "eval_on_start": True,
        "save_only_model": True,
    },
    "named": {
        **STEPS,
        "eval_steps": 3,
        "save_steps": 3,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_b_loss",
        "named": True,
    },
}


def train(library: Any, directory: Path, callbacks: Any = (), resume: Any = None, **options: Any) -> Any:
    evaluated: Any = make_samples(10)
    if options.pop("named", False):
        evaluated = {"a": evaluated, "b": make_samples(4)}
    trainer = library.Trainer(
        model=make_model(),
        args=make_args(library, directory, **{"max_steps": 10, "learning_rate": 0.1, **options}),
        train_dataset=make_samples(),
        eval_dataset=evaluated,
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def checkpoints(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("checkpoint-*")}


def history(trainer: Any) -> list[tuple[int, dict[str, float]]]:
    """What was logged when, without times and without the evaluation loss, which differs on purpose."""
    kept = ("loss", "learning_rate", "grad_norm", "epoch")
    rows = []
    for log in trainer.state.log_history:
        values = {key: log[key] for key in kept if key in log}
        values |= {key: 0.0 for key in log if key.endswith("_loss") and key.startswith("eval")}
        rows.append((log["step"], values))
    return rows


@pytest.mark.parametrize("run", RUNS)
def test_the_same_logs_evaluations_and_checkpoints(run: str, tmp_path: Path) -> None:
    # The whole set is one batch, so that transformers' mean over batches is the mean over tokens.
    options = {**RUNS[run], "per_device_eval_batch_size": 10}
    ours, theirs = (train(LIBRARIES[name], tmp_path / name, **options) for name in ("ours", "theirs"))
    assert checkpoints(tmp_path / "ours") == checkpoints(tmp_path / "theirs")
    assert bool(checkpoints(tmp_path / "ours")) == (options["save_strategy"] != "no")
    assert [step for step, _ in history(ours)] == [step for step, _ in history(theirs)]
    for (_, mine), (_, other) in zip(history(ours), history(theirs), strict=True):
        assert mine == pytest.approx(other, abs=1e-4)
    assert ours.state.best_global_step == theirs.state.best_global_step
    assert ours.state.best_metric == pytest.approx(theirs.state.best_metric, abs=TOLERANCE * 10)
    names = [Path(one.state.best_model_checkpoint or "").name for one in (ours, theirs)]
    assert names[0] == names[1]
    if options.get("load_best_model_at_end"):
        assert names[0] in checkpoints(tmp_path / "ours")
    if options.get("save_only_model"):
        files = [{path.name for path in (tmp_path / name / "checkpoint-4").iterdir()} for name in LIBRARIES]
        assert "optimizer.pt" not in files[0] | files[1]


def test_the_patience_of_early_stopping_survives_a_restart(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        **STEPS,
        "eval_steps": 1,
        "save_steps": 1,
        "metric_for_best_model": "mine",
        "greater_is_better": False,
        "restore_callback_states_from_checkpoint": True,
    }

    class Trainer(raytrainer.Trainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            metrics = {"eval_mine": float(self.state.global_step)}
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    def run(directory: Path, *, resume: bool = False, stop_at: int | None = None) -> Any:
        class Stop(transformers.TrainerCallback):
            def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == stop_at:
                    raise KeyboardInterrupt

        trainer = Trainer(
            model=make_model(),
            args=make_args(raytrainer, directory, **{"max_steps": 10, **options}),
            train_dataset=make_samples(),
            eval_dataset=make_samples(4),
            callbacks=[transformers.EarlyStoppingCallback(early_stopping_patience=3), Stop()],
        )
        trainer.train(resume_from_checkpoint=resume or None)
        return trainer

    whole = run(tmp_path / "a")
    assert whole.state.global_step == 4
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", stop_at=3)
    assert run(tmp_path / "b", resume=True).state.global_step == 4
