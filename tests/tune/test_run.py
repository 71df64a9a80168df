"""Sweeps on a real Ray: trials of one and two workers, schedulers, faults, and nothing left behind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining
from transformers import AutoModelForCausalLM

from tests.tune.leaks import assert_nothing_is_left
from tests.tune.trials import (
    KillsOnce,
    OtherRate,
    are_equal,
    make_trainer,
    quiet_run,
    states_are_equal,
    weights_of,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("ray_cluster", "nothing_left"),
]

RATES = [1e-2, 3e-3, 1e-3]


@pytest.fixture
def nothing_left(ray_directory):
    """After each test: no placement group, all CPUs are free, and no process of a trial or a worker lives."""
    yield
    assert_nothing_is_left(ray_directory)


def test_trials_of_one_worker_are_the_runs_that_they_would_be_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    best = trainer.hyperparameter_search(
        {"learning_rate": tune.grid_search(RATES)}, n_trials=1, load_best=True, max_concurrent_trials=1
    )
    summary = best.run_summary
    assert [trial.state for trial in summary.trials] == ["finished"] * 3
    assert [[one.step for one in trial.evaluations] for trial in summary.trials] == [[2, 4, 6]] * 3
    for trial in summary.trials:
        alone = quiet_run(tmp_path / f"alone-{trial.run_id}", trial.hyperparameters["learning_rate"])
        losses = [row["eval_loss"] for row in alone.state.log_history if "eval_loss" in row]
        assert [one.objectives[0] for one in trial.evaluations] == losses
        assert are_equal(
            weights_of(trial.last_checkpoint), weights_of(f"{alone.args.output_dir}/checkpoint-6")
        )
        AutoModelForCausalLM.from_pretrained(trial.last_checkpoint)
    # The trainer holds the best: arguments, and weights.
    assert best.objective == min(trial.evaluations[-1].objectives[0] for trial in summary.trials)
    assert trainer.args.learning_rate == best.hyperparameters["learning_rate"]
    assert trainer.args.output_dir == str(tmp_path)
    loaded = trainer.model.state_dict()
    saved = weights_of(summary.best_checkpoint(summary.best[0]))
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert Path(summary.path, "sweep.json").is_file()
    assert Path(summary.path, "sweep.png").is_file()
    # Workers were handed from one trial to the next, so the second and the third cost little besides their steps.
    assert all(trial.seconds < 5 for trial in summary.trials[1:])


def test_trials_of_two_workers_on_two_cpus_run_one_after_the_other_and_asha_frees_them(tmp_path):
    trainer = make_trainer(tmp_path, num_workers=2)
    scheduler = ASHAScheduler(time_attr="step", max_t=6, grace_period=2, reduction_factor=2)
    best = trainer.hyperparameter_search(
        {"learning_rate": tune.grid_search([1e-2, 1e-4, 1e-5])}, n_trials=1, scheduler=scheduler
    )
    states = [trial.state for trial in best.run_summary.trials]
    assert states == ["finished", "stopped", "stopped"]
    assert [trial.step for trial in best.run_summary.trials] == [6, 2, 2]


@pytest.fixture(scope="module")
def faults(tmp_path_factory, ray_cluster):
    """One sweep: a trial that goes well, one that raises, one with NaN, and two of which a process is killed."""
    directory = tmp_path_factory.mktemp("faults")
    names = ["none", "raises", "nan", "worker killed", "trial killed"]
    trainer = make_trainer(directory, callbacks=[KillsOnce(directory, step=5)], max_failures=1)
    best = trainer.hyperparameter_search({"fault": tune.grid_search(names)}, n_trials=1)
    return directory, best, {trial.hyperparameters["fault"]: trial for trial in best.run_summary.trials}


def test_trial_that_raises_and_trial_with_nan_lose_and_do_not_stop_the_sweep(faults):
    _, best, trials = faults
    assert best.hyperparameters["fault"] not in ("raises", "nan")
    assert trials["none"].state == "finished"
    assert trials["raises"].state == "failed"
    assert "this trial cannot build its model" in trials["raises"].error
    assert trials["nan"].evaluations[-1].objectives == [math.inf]


@pytest.mark.parametrize("victim", ["worker killed", "trial killed"])
def test_killed_process_changes_nothing_in_a_trials_result(faults, victim):
    directory, _, trials = faults
    assert (directory / victim).exists(), "nothing was killed"
    quiet, disturbed = trials["none"], trials[victim]
    assert disturbed.state == "finished"
    assert [one.step for one in disturbed.evaluations] == [2, 4, 6]
    assert [one.objectives for one in disturbed.evaluations] == [one.objectives for one in quiet.evaluations]
    assert are_equal(weights_of(disturbed.last_checkpoint), weights_of(quiet.last_checkpoint))


def test_population_based_training_goes_on_bitwise_from_the_better_trials_checkpoint(tmp_path):
    scheduler = PopulationBasedTraining(
        time_attr="step",
        perturbation_interval=2,
        hyperparam_mutations={"learning_rate": lambda: 5e-3},  # never the donor's own
        resample_probability=1.0,
        quantile_fraction=0.5,
        synch=True,
    )
    trainer = make_trainer(tmp_path, max_steps=4)
    best = trainer.hyperparameter_search(
        {"learning_rate": tune.grid_search([1e-2, 1e-7])}, n_trials=1, scheduler=scheduler
    )
    donor, clone = best.run_summary.trials
    rate = clone.hyperparameters["learning_rate"]
    assert rate != 1e-7, "nothing was cloned"
    # In one process: the donor's rate for two steps, then the clone's.
    alone = make_trainer(
        tmp_path / "alone", num_workers=0, max_steps=4, learning_rate=1e-2, callbacks=[OtherRate(2, rate)]
    )
    alone.train()
    found, expected = Path(clone.path) / "checkpoint-4", tmp_path / "alone" / "checkpoint-4"
    assert are_equal(weights_of(found), weights_of(expected))
    assert states_are_equal(found, expected)
    assert not are_equal(weights_of(found), weights_of(Path(donor.path) / "checkpoint-4"))
    rows = json.loads((found / "trainer_state.json").read_text())["log_history"]
    assert [row["learning_rate"] for row in rows if "learning_rate" in row][-1] == pytest.approx(rate / 4)
