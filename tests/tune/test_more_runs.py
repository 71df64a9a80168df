"""More sweeps on a real Ray, which take minutes: every scheduler, a Tuner of one's own, reporters.

They run with ``make sweeps``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ray import tune
from ray.tune.schedulers import HyperBandScheduler, MedianStoppingRule
from ray.tune.schedulers.pb2 import PB2

import raytrainer.tune
from raytrainer.errors import ConfigurationError
from tests.tune.leaks import assert_nothing_is_left
from tests.tune.trials import are_equal, make_trainer, quiet_run, weights_of

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(400),
    pytest.mark.usefixtures("ray_cluster", "nothing_left"),
    pytest.mark.skipif(
        not os.environ.get("RAYTRAINER_SWEEPS"), reason="takes minutes; `make sweeps` runs it"
    ),
]


@pytest.fixture
def nothing_left(ray_directory):
    yield
    assert_nothing_is_left(ray_directory)


def test_hyperband_pauses_trials_and_the_last_one_is_the_run_that_it_would_be_alone(tmp_path):
    scheduler = HyperBandScheduler(time_attr="training_iteration", max_t=3, reduction_factor=3)
    rates = [
        1e-3,
        1e-4,
        1e-2,
        1e-5,
        1e-6,
    ]  # Two trials in a bracket that stops none, three in one that stops two.
    best = make_trainer(tmp_path).hyperparameter_search(
        {"learning_rate": tune.grid_search(rates)}, n_trials=1, scheduler=scheduler
    )
    trials = best.run_summary.trials
    assert [trial.state for trial in trials] == ["finished"] * 3 + ["stopped"] * 2
    assert [one.step for one in trials[2].evaluations] == [2, 4, 6]
    alone = quiet_run(tmp_path / "alone", 1e-2)
    assert are_equal(
        weights_of(trials[2].last_checkpoint), weights_of(f"{alone.args.output_dir}/checkpoint-6")
    )


def test_median_stopping_stops_the_worse_trial(tmp_path):
    scheduler = MedianStoppingRule(time_attr="step", grace_period=2, min_samples_required=1)
    best = make_trainer(tmp_path).hyperparameter_search(
        {"learning_rate": tune.grid_search([1e-2, 1e-7])},
        n_trials=1,
        scheduler=scheduler,
        max_concurrent_trials=1,
    )
    assert [trial.state for trial in best.run_summary.trials] == ["finished", "stopped"]


def test_pb2_clones_the_better_trial(tmp_path):
    scheduler = PB2(
        time_attr="step",
        perturbation_interval=2,
        hyperparam_bounds={"learning_rate": [1e-3, 1e-2]},
        quantile_fraction=0.5,
        synch=True,
    )
    best = make_trainer(tmp_path, max_steps=4).hyperparameter_search(
        {"learning_rate": tune.grid_search([1e-2, 1e-7])}, n_trials=1, scheduler=scheduler
    )
    assert 1e-3 <= best.run_summary.trials[1].hyperparameters["learning_rate"] <= 1e-2


def test_number_of_workers_is_a_hyperparameter_and_one_that_cannot_fit_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2)
    with pytest.raises(ConfigurationError, match="3"):
        trainer.hyperparameter_search({"num_workers": tune.choice([1, 3])}, n_trials=1)
    best = trainer.hyperparameter_search({"num_workers": tune.grid_search([1, 2])}, n_trials=1)
    trials = best.run_summary.trials
    assert [trial.state for trial in trials] == ["finished", "finished"]
    worlds = [len(list(Path(trial.path, "logs").glob("rank-*.log"))) for trial in trials]
    assert worlds == [1, 2]


def test_own_tuner_gets_metrics_and_committed_checkpoints(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=4)
    results = tune.Tuner(
        raytrainer.tune.trainable(trainer),
        param_space={"learning_rate": tune.grid_search([1e-2, 1e-4])},
        tune_config=tune.TuneConfig(metric="eval_loss", mode="min", reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(tmp_path), name="own", verbose=0),
    ).fit()
    best = results.get_best_result()
    assert best.config["learning_rate"] == 1e-2
    assert best.metrics["step"] == 4
    assert Path(best.checkpoint.path).name == "checkpoint-4"
    assert Path(best.checkpoint.path).parent == Path(best.path)
    alone = quiet_run(tmp_path / "alone", 1e-2, max_steps=4)
    assert are_equal(weights_of(best.checkpoint.path), weights_of(f"{alone.args.output_dir}/checkpoint-4"))


def test_own_function_reports_evaluations_and_trials_that_share_a_directory_are_refused(tmp_path):
    def train(config):
        name = "shared" if config["shared"] else tune.get_context().get_trial_id()
        trainer = make_trainer(tmp_path / name, max_steps=4, learning_rate=config["learning_rate"])
        raytrainer.tune.report_evaluations(trainer)
        trainer.train()
        trainer.end()

    def results(shared):
        return tune.Tuner(
            train,
            param_space={"learning_rate": tune.grid_search([1e-2, 1e-4]), "shared": shared},
            tune_config=tune.TuneConfig(metric="eval_loss", mode="min", max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()

    found = results(shared=False)
    assert [len(one.metrics_dataframe) for one in found] == [2, 2]
    best = found.get_best_result()
    assert best.metrics["step"] == 4
    assert Path(best.metrics["checkpoint"]).name == "checkpoint-4"
    errors = [str(one.error) for one in results(shared=True) if one.error]
    assert len(errors) == 1
    assert "Give each trial a directory of its own" in errors[0]


def test_reporters_show_one_run_for_each_trial_in_one_place(tmp_path):
    import mlflow
    import trackio  # noqa: F401  what writes the store that is read below

    trainer = make_trainer(tmp_path, max_steps=2, report_to=["tensorboard", "mlflow", "trackio"])
    best = trainer.hyperparameter_search({"learning_rate": tune.grid_search([1e-2, 1e-4])}, n_trials=1)
    sweep = Path(best.run_summary.path)
    ids = {trial.run_id for trial in best.run_summary.trials}
    boards = {file.relative_to(sweep).parts[0] for file in sweep.rglob("events.out.tfevents.*")}
    assert boards == {f"run-{one}" for one in ids}
    store = f"sqlite:///{sweep}/mlflow.db" if (sweep / "mlflow.db").exists() else (sweep / "mlruns").as_uri()
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name(sweep.name)
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == ids
    assert {run.data.tags["sweep"] for run in runs} == {sweep.name}
    assert [file.name for file in (sweep / "trackio").glob("*.db")] == [f"{sweep.name}.db"]


def test_time_budget_ends_a_sweep_whose_trials_have_saved(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=100_000, eval_steps=20, save_steps=20)
    best = trainer.hyperparameter_search(
        {"learning_rate": tune.grid_search([1e-3])}, n_trials=1, time_budget_s=90
    )
    (trial,) = best.run_summary.trials
    assert trial.state == "stopped"
    state = json.loads((Path(trial.last_checkpoint) / "trainer_state.json").read_text())
    assert 0 < state["global_step"] < 100_000


def test_optuna_repeats_with_the_same_seed_and_several_objectives_give_a_front(tmp_path):
    def run(name):
        trainer = make_trainer(tmp_path / name, max_steps=2)
        return trainer.hyperparameter_search(
            lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)},
            compute_objective=lambda metrics: [metrics["eval_loss"], metrics["epoch"]],
            direction=["minimize", "maximize"],
            backend="optuna",
            n_trials=2,
            max_concurrent_trials=1,
        )

    first, second = run("first"), run("second")
    rates = [
        [trial.hyperparameters["learning_rate"] for trial in found[0].run_summary.trials]
        for found in (first, second)
    ]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 2
    assert all(len(one.objective) == 2 for one in first)


def test_mistake_that_every_trial_would_make_ends_the_sweep(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ConfigurationError, match="'eval_acuracy', which the evaluation"):
        trainer.hyperparameter_search(
            {"learning_rate": tune.grid_search([1e-2, 3e-3, 1e-3])},
            n_trials=1,
            compute_objective="eval_acuracy",
        )
