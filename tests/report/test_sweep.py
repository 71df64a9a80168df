"""A sweep's page: its trials, an axis for each hyperparameter, and the objective of each trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raytrainer.report.page import write_report
from raytrainer.report.sweep import objective_spec, parallel_spec, read_sweep


def trial(name: str, rate: float, objectives: list[float], **more: Any) -> dict[str, Any]:
    evaluations = [
        {"step": 10 * (at + 1), "seconds": 5.0 * (at + 1), "objectives": [value]}
        for at, value in enumerate(objectives)
    ]
    return {
        "run_id": name,
        "state": "finished",
        "hyperparameters": {"learning_rate": rate, "optim": name},
        "evaluations": evaluations,
    } | more


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    trials = [
        trial("run-0", 1e-5, [3.0, 2.0]),
        trial("run-1", 1e-2, [2.0, 1.0]),
        trial("run-2", 1e-3, [], state="failed", error="out of memory"),
    ]
    content = {
        "directions": ["minimize"],
        "scope": "last",
        "seconds": 60.0,
        "best": ["run-1"],
        "trials": trials,
    }
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    return tmp_path


def test_trials_have_the_objective_that_counts(directory: Path):
    sweep = read_sweep(directory)
    assert sweep is not None
    assert [(one.name, one.objective, one.is_best) for one in sweep.trials] == [
        ("run-0", 2.0, False),
        ("run-1", 1.0, True),
        ("run-2", None, False),
    ]


def test_each_hyperparameter_has_an_axis_from_its_least_to_its_greatest_value(directory: Path):
    sweep = read_sweep(directory)
    assert sweep is not None
    spec = parallel_spec(sweep)
    assert spec is not None
    rows = spec["layer"][0]["data"]["values"]
    places = {(row["axis"], row["trial"]): row["y"] for row in rows}
    assert places["learning_rate", "run-0"] == 0.0
    assert places["learning_rate", "run-1"] == 1.0
    assert places["optim", "run-1"] == 1.0
    assert {axis for axis, _ in places} == {"learning_rate", "optim", "objective"}
    assert {row["trial"] for row in spec["layer"][1]["data"]["values"]} == {"run-1"}


def test_objectives_are_drawn_over_steps_and_over_time(directory: Path):
    sweep = read_sweep(directory)
    assert sweep is not None
    for by_time, expected in ((False, [10, 20]), (True, [5.0, 10.0])):
        rows = objective_spec(sweep, by_time=by_time)["data"]["values"]
        assert [row["x"] for row in rows if row["trial"] == "run-0"] == expected


def test_a_page_of_a_sweep_lists_its_trials(directory: Path):
    write_report([str(directory)], str(directory / "report.html"))
    text = (directory / "report.html").read_text(encoding="utf-8")
    assert "run-1 ★ best" in text
    assert "failed" in text
    assert "3 trials in 1:00; minimize the objective." in text


def test_a_directory_of_a_run_is_no_sweep(tmp_path: Path):
    assert read_sweep(tmp_path) is None
