"""The driver's side of a trainer of transformers that runs as it is on Ray workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from raytrainer.errors import ConfigurationError, TrainingFailed, UnknownArgumentError
from tests.libraries.own_loop import (
    NUM_STEPS,
    DieOnce,
    PlainTrainer,
    ZerothOrderTrainer,
    losses,
    make_arguments,
    make_model,
    samples,
)


def test_a_class_that_runs_on_ray_already_is_refused() -> None:
    class Mine(raytrainer.Trainer):
        pass

    with pytest.raises(ConfigurationError, match=r"derives from raytrainer\.Trainer.*Construct it directly"):
        raytrainer.on_ray(Mine)


@pytest.mark.parametrize("thing", [dict, "SFTTrainer", PlainTrainer.train])
def test_something_else_is_refused(thing: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"derives from transformers\.Trainer was expected"):
        raytrainer.on_ray(thing)


def test_an_option_that_ray_does_not_have_is_refused() -> None:
    with pytest.raises(UnknownArgumentError, match=r"no option 'num_worker'.*num_workers"):
        raytrainer.on_ray(PlainTrainer, num_worker=2)
    with pytest.raises(ConfigurationError, match="num_workers=-1"):
        raytrainer.on_ray(PlainTrainer, num_workers=-1)


def test_a_bucket_is_refused_because_these_trainers_write_directories() -> None:
    make = raytrainer.on_ray(PlainTrainer, num_workers=2)
    with pytest.raises(
        ConfigurationError, match=r"output_dir='s3://bucket/run' is a URI.*path that all workers share"
    ):
        make(make_model(), make_arguments("s3://bucket/run"), train_dataset=samples())


def test_in_this_process_it_is_the_class_itself(tmp_path: Path) -> None:
    make = raytrainer.on_ray(ZerothOrderTrainer, num_workers=0)
    trainer = make(
        make_model(), make_arguments(tmp_path, save_strategy="no", max_steps=1), train_dataset=samples()
    )
    assert type(trainer) is ZerothOrderTrainer
    trainer.train()
    assert trainer.state.global_step == 1


def test_constructor_arguments_that_do_not_fit_are_refused_on_the_driver(tmp_path: Path) -> None:
    make = raytrainer.on_ray(PlainTrainer, num_workers=2)
    with pytest.raises(TypeError, match="datasets"):
        make(make_model(), make_arguments(tmp_path), datasets=samples())


def test_nothing_is_set_on_a_trainer_that_is_elsewhere(tmp_path: Path) -> None:
    trainer = raytrainer.on_ray(PlainTrainer, num_workers=2)(make_model(), make_arguments(tmp_path))
    with pytest.raises(ConfigurationError, match="train_dataset cannot be set"):
        trainer.train_dataset = samples()
    with pytest.raises(AttributeError, match=r"no method 'last_loss'.*not running"):
        _ = trainer.last_loss
    assert trainer.state.global_step == 0
    assert not hasattr(trainer, "_repr_html_")


@pytest.fixture(scope="module")
def runs(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run of two workers without a kill, and one in which a worker is killed at step 5."""
    found: dict[str, Any] = {}
    for name in ("whole", "killed"):
        directory = tmp_path_factory.mktemp(name)
        model = make_model()
        make = raytrainer.on_ray(ZerothOrderTrainer, num_workers=2)
        trainer = make(
            model,
            make_arguments(directory, save_only_model=True),
            train_dataset=samples(),
            callbacks=[DieOnce(directory / "died", rank=1, step=5)] if name == "killed" else [],
        )
        trainer.train()
        found[name] = {
            "losses": losses(trainer),
            "steps": trainer.state.global_step,
            "died": (directory / "died").exists(),
            "is_given": trainer.model is model,
            "weights": {key: value.clone() for key, value in model.state_dict().items()},
        }
        if name == "whole":
            trainer.args.per_device_eval_batch_size = 3
            found["largest"] = trainer.largest_weight()
            found["attribute"] = trainer.last_loss
            found["eval"] = trainer.evaluate(samples(6))
            found["world_size"] = trainer.accelerator_processes()
            found["batch"] = trainer.eval_batch_size()
            with pytest.raises(TrainingFailed) as failed:
                trainer.fail("wrong")
            found["error"] = str(failed.value)
        trainer.end()
    return found


@pytest.mark.ray
def test_two_workers_train_with_the_loop_of_the_class(runs: Any) -> None:
    whole = runs["whole"]
    assert runs["world_size"] == 2
    assert whole["steps"] == NUM_STEPS
    assert len(whole["losses"]) == NUM_STEPS
    assert whole["is_given"]
    assert not torch.equal(whole["weights"]["lm_head.weight"], make_model().lm_head.weight)


@pytest.mark.ray
def test_methods_and_attributes_are_those_of_the_workers(runs: Any) -> None:
    whole = runs["whole"]
    assert runs["largest"] == max(float(value.abs().max()) for value in whole["weights"].values())
    assert runs["attribute"] == whole["losses"][-1]
    assert runs["eval"]["eval_loss"] > 0


@pytest.mark.ray
def test_a_change_of_the_arguments_reaches_the_workers(runs: Any) -> None:
    assert runs["batch"] == 3


@pytest.mark.ray
def test_an_exception_of_a_worker_is_raised_on_the_driver(runs: Any) -> None:
    assert "ValueError: wrong" in runs["error"]


@pytest.mark.ray
def test_a_killed_worker_changes_neither_losses_nor_weights(runs: Any) -> None:
    whole, killed = runs["whole"], runs["killed"]
    assert killed["died"]
    assert killed["losses"] == whole["losses"]
    for name, value in whole["weights"].items():
        assert torch.equal(killed["weights"][name], value), name
