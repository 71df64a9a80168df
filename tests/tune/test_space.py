"""Search spaces: which are taken, and what is refused before anything starts."""

from __future__ import annotations

import pickle

import pytest
from ray import tune

from raytrainer import TrainingArguments
from raytrainer.arguments.varied import with_values
from raytrainer.errors import ConfigurationError
from raytrainer.tune.hyperparameters import TrialParams
from raytrainer.tune.objective import Objective
from raytrainer.tune.space import optuna_search, read_space


@pytest.fixture
def args(tmp_path):
    return TrainingArguments(output_dir=str(tmp_path), num_workers=1, use_cpu=True, report_to=[])


def of_trial(trial):
    return trial


def read(space, args, model_init=lambda: None, backend="ray"):
    return read_space(space, args, model_init, backend=backend)


def test_dict_of_samplers_is_taken(args):
    space = {"learning_rate": tune.loguniform(1e-5, 1e-3), "num_train_epochs": tune.choice([1, 2])}
    assert read(space, args).samplers == space


def test_function_of_ray_samplers_is_taken(args):
    space = {"learning_rate": tune.loguniform(1e-5, 1e-3)}
    assert read(lambda trial: space, args).samplers == space


@pytest.mark.parametrize("backend", ["ray", "optuna"])
def test_function_that_suggests_is_sampled_by_optuna(args, backend):
    found = read(
        lambda trial: {"learning_rate": trial.suggest_float("lr", 1e-5, 1e-3)}, args, backend=backend
    )
    assert found.samplers == {}
    assert found.suggest is not None


def test_suggestions_survive_the_plain_pickle_of_rays_optuna_search(args):
    import optuna

    found = read(lambda trial: {"learning_rate": trial.suggest_float("lr", 1e-5, 1e-3)}, args)
    suggest = pickle.loads(pickle.dumps(found.suggest))
    assert set(suggest(optuna.create_study().ask())) == {"learning_rate"}


def test_default_space_has_values_that_arguments_can_have(args):
    for name, sampler in read(None, args).samplers.items():
        value = sampler.sample()
        assert getattr(with_values(args, {name: value}), name) == value


def test_unknown_name_is_refused_with_the_nearest_one(args):
    with pytest.raises(ConfigurationError, match=r"'learning_rte'.*Did you mean 'learning_rate'"):
        read({"learning_rte": tune.uniform(0, 1)}, args)


def test_name_that_only_model_init_reads_is_taken_if_it_takes_the_trial(args):
    assert "width" in read({"width": tune.choice([1, 2])}, args, model_init=of_trial).samplers


def test_unknown_name_in_a_suggestion_is_refused_before_anything_starts(args):
    with pytest.raises(ConfigurationError, match="'wdth'"):
        read(lambda trial: {"wdth": trial.suggest_int("wdth", 1, 2)}, args)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"num_train_epochs": "three"}, "hp_space gives num_train_epochs='three'"),
        ({"learning_rate": tune.choice([1e-3, -1.0])}, "hp_space gives learning_rate=-1.0"),
        (
            {"lr_scheduler_type": tune.choice(["linear", "lineer"])},
            "hp_space gives lr_scheduler_type='lineer'",
        ),
        ({"output_dir": tune.choice(["a", "b"])}, "belongs to the sweep as a whole"),
        ({}, "hp_space is empty"),
        (5, "hp_space is a int"),
        (lambda trial: 5, "returned a int"),
    ],
)
def test_bad_space_is_refused(args, space, message):
    with pytest.raises(ConfigurationError, match=message):
        read(space, args)


def test_values_keep_their_types(args):
    changed = with_values(args, {"gradient_accumulation_steps": 4, "bf16": False, "optim": "sgd"})
    assert (changed.gradient_accumulation_steps, changed.bf16, changed.optim) == (4, False, "sgd")
    assert args.gradient_accumulation_steps == 1


def test_model_init_reads_a_trial_in_both_ways():
    trial = TrialParams({"width": 4})
    assert trial["width"] == trial.suggest_int("width", 1, 8) == trial.params["width"] == 4


def test_model_init_that_asks_for_what_was_not_suggested_is_told_so():
    with pytest.raises(
        ConfigurationError, match=r"'widht', which hp_space did not suggest. Did you mean 'width'"
    ):
        TrialParams({"width": 4}).suggest_int("widht", 1, 8)


def test_grid_is_refused_where_optuna_samples(args):
    space = read_space({"learning_rate": tune.grid_search([1e-3, 1e-4])}, args, None, backend="optuna")
    objective = Objective(directions=("minimize",), compute=None, metric=None)
    with pytest.raises(
        ConfigurationError, match="learning_rate by grid_search, which Optuna does not sample"
    ):
        optuna_search(space, objective, seed=1, at_random=False)
