"""Sweeps that cannot run are refused on the driver, before Ray starts."""

from __future__ import annotations

import pytest
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, PopulationBasedTraining
from ray.tune.search.optuna import OptunaSearch

import raytrainer
from raytrainer.errors import ConfigurationError
from raytrainer.tune.checks import by_objective, check_objective
from raytrainer.tune.objective import Objective
from raytrainer.tune.options import read_options
from tests.parity.twins import make_model, make_samples


def new_model():
    return make_model()


SPACE = {"learning_rate": tune.loguniform(1e-5, 1e-3)}


@pytest.fixture
def make_trainer(tmp_path):
    def make(changes=None, **arguments):
        values = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": [], "eval_strategy": "steps"}
        args = raytrainer.TrainingArguments(
            **{**values, "num_workers": 1, "eval_steps": 2, **(changes or {})}
        )
        samples = make_samples()
        given = {"model_init": new_model, "train_dataset": samples, "eval_dataset": samples, **arguments}
        return raytrainer.Trainer(args=args, **given)

    return make


def test_trials_that_would_share_one_model_are_refused(make_trainer):
    trainer = make_trainer(model_init=None, model=make_model())
    with pytest.raises(ConfigurationError, match=r"needs a new model for each trial.*model_init="):
        trainer.hyperparameter_search(SPACE)


def test_trials_without_evaluations_are_refused(make_trainer):
    trainer = make_trainer({"eval_strategy": "no"}, eval_dataset=None)
    with pytest.raises(ConfigurationError, match="has no eval_dataset"):
        trainer.hyperparameter_search(SPACE)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"backend": "wandb"}, "backend='wandb' is not available"),
        ({"backend": "sigopt"}, "not one of ray, optuna"),
        ({"direction": "up"}, "neither 'minimize' nor 'maximize'"),
        ({"direction": ["minimize", "maximize"]}, "Several directions need compute_objective"),
        ({"n_trials": 0}, "n_trials=0"),
        ({"shceduler": None}, "no argument 'shceduler'. Did you mean 'scheduler'"),
        ({"scheduler": ASHAScheduler(metric="eval_loss", mode="min")}, "metric of scheduler is 'eval_loss'"),
        (
            {"scheduler": ASHAScheduler(metric="objective", mode="max")},
            "mode='max', but direction is 'minimize'",
        ),
        (
            {"search_alg": OptunaSearch(metric="eval_f1", mode="min")},
            "metric of search_alg is 'eval_f1', but trials of this sweep are compared by their 'objective'",
        ),
        ({"pruner": object()}, "what stops trials here is a scheduler of Ray Tune"),
        ({"sampler": object()}, "needs backend='optuna'"),
        ({"scheduler": ASHAScheduler(time_attr="steps")}, "time_attr='steps'.*training_iteration"),
        ({"scope": "avg"}, "scope='avg'"),
        ({"max_concurrent_trials": 0}, "lets no trial run"),
        ({"resume": True}, "found no sweep"),
        ({"resume": True, "name": "mine"}, "found no sweep called 'mine'"),
    ],
)
def test_bad_keyword_is_refused(make_trainer, keywords, message):
    with pytest.raises(ConfigurationError, match=message):
        make_trainer().hyperparameter_search(SPACE, **keywords)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"compute_objective": "acuracy"}, r"objective is 'acuracy'.*It gives eval_loss, eval_runtime"),
        (
            {"direction": "maximize"},
            r"direction='maximize' without an objective: the evaluation gives eval_loss",
        ),
    ],
)
def test_objective_that_no_evaluation_can_give_is_refused(make_trainer, keywords, message):
    with pytest.raises(ConfigurationError, match=message):
        make_trainer().hyperparameter_search(SPACE, **keywords)


def test_objective_of_the_users_own_metrics_is_known_with_the_first_evaluation():
    objective = Objective(directions=("minimize",), compute="eval_f1", metric=None)
    check_objective(None, objective)


def test_scheduler_that_needs_evaluations_is_refused_without_them(make_trainer):
    with pytest.raises(ConfigurationError, match="AsyncHyperBandScheduler decides by evaluations"):
        make_trainer({"eval_strategy": "no"}).hyperparameter_search(SPACE, scheduler=ASHAScheduler())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"save_strategy": "no"},
            "PopulationBasedTraining clones trials, so each evaluation needs a checkpoint",
        ),
        ({"save_steps": 4}, "Set save_strategy to eval_strategy, with the same steps"),
        ({"save_only_model": True}, "and save_only_model=False"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "does not keep the rate that it began with"),
    ],
)
def test_population_based_training_is_refused_without_what_it_clones(make_trainer, changes, message):
    scheduler = PopulationBasedTraining(hyperparam_mutations=SPACE)
    saved = {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(ConfigurationError, match=message):
        make_trainer({**saved, **changes}).hyperparameter_search(SPACE, scheduler=scheduler)


def test_scheduler_that_pauses_trials_is_refused_without_checkpoints(make_trainer):
    with pytest.raises(
        ConfigurationError, match="HyperBandScheduler pauses trials, which go on later, so each"
    ):
        make_trainer({"save_strategy": "no"}).hyperparameter_search(SPACE, scheduler=HyperBandScheduler())


@pytest.mark.parametrize(
    ("changes", "keywords", "message"),
    [
        ({"save_strategy": "no"}, {}, "load_best=True, but save_strategy is 'no'"),
        ({"save_total_limit": 1}, {"scope": "best"}, "best evaluation may be deleted before the trial ends"),
    ],
)
def test_best_weights_that_may_not_be_there_are_refused(make_trainer, changes, keywords, message):
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(changes).hyperparameter_search(SPACE, load_best=True, **keywords)


def test_directory_of_another_sweep_is_refused(make_trainer, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tuner.pkl").touch()
    with pytest.raises(ConfigurationError, match=r"holds a sweep. Pass resume=True"):
        make_trainer().hyperparameter_search(SPACE, name="mine")


def test_process_that_trains_itself_is_refused(make_trainer):
    trainer = make_trainer({"num_workers": 0, "max_steps": 1})
    trainer.train()
    with pytest.raises(ConfigurationError, match="a process that trains itself"):
        trainer.hyperparameter_search(SPACE)


def test_none_of_this_started_ray():
    assert not ray.is_initialized()


def test_scheduler_with_the_sweeps_own_metric_is_taken_without_it():
    objective = Objective(directions=("maximize",), compute=None, metric=None)
    given = ASHAScheduler(metric="objective", mode="max")
    taken = by_objective(given, "scheduler", objective)
    assert taken.set_search_properties("objective", "max")
    assert not given.set_search_properties("objective", "max"), "Tune would have taken it as it was"


def test_options_have_optunas_names_too():
    options = read_options({"timeout": 60, "n_jobs": -1})
    assert options.time_budget_s == 60
    assert options.max_concurrent_trials is None


def test_a_bucket_is_refused_as_the_directory_of_a_sweep():
    options = read_options({})
    with pytest.raises(ConfigurationError, match=r"'s3://bucket/run', which is a URI.*Pass storage_path="):
        options.directory("s3://bucket/run")
