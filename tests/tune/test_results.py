"""Which trial of a sweep is the best, and what is kept of it."""

from __future__ import annotations

import math

import pytest
from rich.console import Console

from raytrainer.tune.objective import Objective
from raytrainer.tune.picture import Axis, draw
from raytrainer.tune.results import Evaluation, SweepResult, TrialResult
from raytrainer.tune.table import render


def trial(name, *objectives, state="finished", error=None, **hyperparameters):
    evaluations = [
        Evaluation(
            step=10 * (number + 1),
            max_steps=10 * len(objectives),
            epoch=0.5,
            objectives=one if isinstance(one, list) else [one],
            seconds=1.0 + number,
            checkpoint=f"/{name}/checkpoint-{10 * (number + 1)}",
            metrics={"eval_loss": 1.0},
        )
        for number, one in enumerate(objectives)
    ]
    return TrialResult(
        run_id=name,
        state=state,
        hyperparameters=hyperparameters,
        path=f"/{name}",
        evaluations=evaluations,
        error=error,
    )


def sweep(*trials, directions=("minimize",), scope="last", path="/sweep"):
    return SweepResult(path=str(path), directions=list(directions), scope=scope, trials=list(trials))


def test_last_evaluation_counts():
    assert [one.run_id for one in sweep(trial("a", 0.1, 0.9), trial("b", 0.5, 0.5)).ranked] == ["b", "a"]


def test_best_evaluation_counts_if_asked_for_and_its_checkpoint_is_the_best_one():
    result = sweep(trial("a", 0.1, 0.9), trial("b", 0.5, 0.5), scope="best")
    assert result.best[0].run_id == "a"
    assert result.best_checkpoint(result.best[0]) == "/a/checkpoint-10"


def test_trial_without_a_number_loses():
    result = sweep(
        trial("nan", math.inf), trial("failed", 0.0, state="failed", error="boom"), trial("ok", 9.0)
    )
    assert [one.run_id for one in result.ranked] == ["ok"]


def test_several_objectives_have_a_pareto_front():
    result = sweep(
        trial("a", [1.0, 5.0]),
        trial("b", [2.0, 9.0]),
        trial("beaten", [2.0, 4.0]),
        directions=("minimize", "maximize"),
    )
    assert [one.run_id for one in result.best] == ["a", "b"]


def test_file_gives_the_sweep_back(tmp_path):
    result = sweep(trial("a", 0.1, lr=1e-3), trial("b", math.inf, state="stopped"), path=tmp_path)
    result.write()
    assert SweepResult.read(tmp_path) == result


def text_of(result):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(result, Objective(directions=tuple(result.directions), compute=None, metric=None)))
    return console.export_text()


def test_table_fits_into_100_columns_and_shows_what_varies():
    varied = {"per_device_train_batch_size": 8, "num_train_epochs": 3, "lr_scheduler_type": "linear"}
    trials = [trial(f"run-{n:05d}", 0.5, 0.4, **varied, learning_rate=n * 1e-5, seed=n) for n in range(1, 4)]
    text = text_of(sweep(*trials, trial("run-bad", state="failed", error="ValueError: boom", **varied)))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "1.000e-05" in text
    assert "scheduler type" not in text.partition("best (")[0], "what is the same in all trials is no column"
    assert "run-bad failed: ValueError: boom" in text


def test_table_says_how_many_trials_it_does_not_show():
    text = text_of(sweep(*[trial(f"t{n}", float(n), lr=n) for n in range(30)]))
    assert "and 10 more trials, all in sweep.json" in text


def test_picture_is_drawn_of_trials_with_numbers(tmp_path):
    result = sweep(
        trial("a", 0.5, 0.4, lr=1e-3), trial("b", math.inf, lr=1e-5, state="stopped"), path=tmp_path
    )
    path = draw(result)
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")


def test_sweep_without_numbers_has_no_picture(tmp_path):
    assert draw(sweep(trial("a", math.inf), path=tmp_path)) is None


@pytest.mark.parametrize(
    ("values", "value", "place"),
    [([1e-5, 1e-3], 1e-4, 0.5), ([0.0, 1.0], 0.25, 0.25), ([3, 3], 3, 0.5), (["a", "b"], "b", 0.75)],
)
def test_axis_is_logarithmic_linear_or_of_names(values, value, place):
    assert Axis("x", values).at(value) == pytest.approx(place)
