"""Which number of an evaluation a sweep optimizes."""

from __future__ import annotations

import math

import pytest

from raytrainer.errors import ConfigurationError
from raytrainer.tune.objective import Objective, parse_directions

METRICS = {
    "eval_loss": 0.7,
    "eval_accuracy": 0.5,
    "eval_runtime": 1.0,
    "eval_samples_per_second": 9.0,
    "epoch": 1.0,
}


def objective(*directions, compute=None, metric=None):
    return Objective(directions=directions, compute=compute, metric=metric)


def test_minimizing_without_an_objective_takes_the_loss():
    assert objective("minimize").of(METRICS) == {"objective": 0.7}


def test_maximizing_without_an_objective_takes_the_only_metric():
    assert objective("maximize").of(METRICS) == {"objective": 0.5}


def test_maximizing_without_an_objective_is_refused_with_several_metrics():
    with pytest.raises(
        ConfigurationError, match=r"direction='maximize' without an objective.*eval_accuracy.*eval_f1"
    ):
        objective("maximize").of({**METRICS, "eval_f1": 0.4})


def test_metric_for_best_model_is_the_objective_where_none_is_given():
    assert objective("maximize", metric="accuracy").of({**METRICS, "eval_f1": 0.4}) == {"objective": 0.5}


def test_name_of_a_metric_is_an_objective():
    assert objective("maximize", compute="eval_accuracy").of(METRICS) == {"objective": 0.5}


def test_metric_that_no_evaluation_gives_is_refused_with_the_names_that_were_seen():
    with pytest.raises(
        ConfigurationError, match=r"'acuracy', which the evaluation does not give.*eval_accuracy"
    ):
        objective("maximize", compute="acuracy").of(METRICS)


def test_function_gets_the_metrics():
    assert objective("minimize", compute=lambda m: m["eval_loss"] * 2).of(METRICS) == {"objective": 1.4}


def test_several_directions_need_as_many_numbers():
    two = objective("minimize", "maximize", compute=lambda m: [m["eval_loss"], m["eval_accuracy"]])
    assert two.of(METRICS) == {"objective_0": 0.7, "objective_1": 0.5}
    with pytest.raises(ConfigurationError, match="returned 1 values for 2 directions"):
        objective("minimize", "maximize", compute=lambda m: m["eval_loss"]).of(METRICS)


@pytest.mark.parametrize(("direction", "worst"), [("minimize", math.inf), ("maximize", -math.inf)])
def test_nan_becomes_the_worst_value(direction, worst):
    assert objective(direction, compute=lambda m: math.nan).of(METRICS) == {"objective": worst}


def test_objective_that_is_not_a_number_is_refused():
    with pytest.raises(ConfigurationError, match="The objective is 'good'"):
        objective("minimize", compute=lambda m: "good").of(METRICS)


@pytest.mark.parametrize("direction", ["max", "", None, ["minimize", "up"], []])
def test_direction_that_is_none_is_refused(direction):
    with pytest.raises(ConfigurationError, match="neither 'minimize' nor 'maximize'"):
        parse_directions(direction)
