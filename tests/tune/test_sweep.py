"""The trainer of a trial: a copy of the sweep's, with the trial's values and a directory of its own."""

from __future__ import annotations

import pytest

import raytrainer
from raytrainer.callbacks.reporters import TensorBoardReporter
from raytrainer.tune.sweep import Sweep
from raytrainer.wire.spec import ship
from tests.tune.trials import make_trainer


@pytest.fixture
def make(tmp_path):
    def make(config, *, is_factory=False, given=None, **changes):
        trainer = given or make_trainer(tmp_path / "sweep", **changes)
        sweep = Sweep(trainer=ship(trainer), objective=None, is_factory=is_factory)
        return sweep.make_trainer(config, tmp_path / "sweep" / "run-7", "7")

    return make


def test_trial_has_its_values_and_a_directory_and_name_of_its_own(make, tmp_path):
    trainer = make({"learning_rate": 1e-2, "fault": "nan"})
    assert trainer.args.learning_rate == 1e-2
    assert trainer._trial == {"learning_rate": 1e-2, "fault": "nan"}
    assert trainer.args.output_dir == str(tmp_path / "sweep" / "run-7")
    assert trainer.args.run_name == "7"


def test_name_of_the_run_is_kept_before_that_of_the_trial(make):
    assert make({}, run_name="mine").args.run_name == "mine-7"


def test_trials_push_nothing(make):
    assert not make({}, push_to_hub=True).args.push_to_hub


def test_trial_has_workers_although_the_sweeps_trainer_has_none(make):
    assert make({}, num_workers=0).args.num_workers is None


def test_function_makes_its_trainer_itself(make, tmp_path):
    def factory(config):
        return make_trainer(tmp_path / "all", learning_rate=config["rate"] * 10)

    trainer = make({"rate": 1e-3, "learning_rate": 5.0}, is_factory=True, given=factory)
    assert trainer.args.learning_rate == 1e-2
    assert trainer.args.output_dir == str(tmp_path / "sweep" / "run-7")


def test_hook_of_the_users_trainer_sets_what_it_wants(tmp_path):
    class Doubles(raytrainer.Trainer):
        def _hp_search_setup(self, trial):
            super()._hp_search_setup({**trial, "learning_rate": trial["learning_rate"] * 2})

    plain = make_trainer(tmp_path)
    trainer = Doubles(model_init=plain.model_init, args=plain.args, train_dataset=[{}], eval_dataset=[{}])
    sweep = Sweep(trainer=ship(trainer), objective=None)
    made = sweep.make_trainer({"learning_rate": 1e-3}, tmp_path / "run-7", "7")
    assert made.args.learning_rate == 2e-3


def test_tensorboard_has_a_directory_for_each_trial(make, tmp_path):
    trainer = make({}, report_to=["tensorboard"], logging_dir=str(tmp_path / "board"))
    (reporter,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, TensorBoardReporter)]
    assert reporter.logging_dir == str(tmp_path / "board" / "run-7")
