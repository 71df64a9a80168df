"""Methods of transformers' Trainer: implemented or refused; an override that is never called is warned about."""

from __future__ import annotations

import ast
import re
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer
from raytrainer.errors import ConfigurationError
from raytrainer.loop import queries
from raytrainer.preflight.unsupported_methods import (
    CALLED_BY_THEIR_AUTHOR,
    NEVER_CALLED,
    ONLY_FOR_USERS,
    is_implemented,
)
from tests.parity.twins import make_args, make_model, make_samples, make_trainer

IN_TRANSFORMERS = {
    name
    for name, value in vars(transformers.Trainer).items()
    if (callable(value) or isinstance(value, staticmethod)) and not name.startswith("__")
}
ARGUMENTS = {"model": torch.nn.Linear(1, 1)}


def names_read_in_the_package() -> set[str]:
    return {
        node.attr
        for path in Path(raytrainer.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_method_of_transformers_is_implemented_or_refused() -> None:
    assert {
        name for name in IN_TRANSFORMERS if not is_implemented(raytrainer.Trainer, name)
    } - NEVER_CALLED.keys() == set()


def test_the_table_names_no_other_method() -> None:
    assert NEVER_CALLED.keys() - IN_TRANSFORMERS == set()


def test_an_implemented_hook_is_called_where_transformers_calls_it() -> None:
    source = Path(transformers.trainer.__file__).read_text()
    called_there = {
        node.func.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    here = {name for name in IN_TRANSFORMERS & called_there if is_implemented(raytrainer.Trainer, name)}
    assert len(here) > 30
    assert here - ONLY_FOR_USERS - names_read_in_the_package() == set()


def test_an_override_that_is_never_called_is_refused_with_an_alternative() -> None:
    class Mine(raytrainer.Trainer):
        def _wrap_model(self, model: Any, training: bool = True) -> Any:
            return model

    with pytest.raises(ConfigurationError, match=r"Mine\._wrap_model .*never calls.*model_init"):
        Mine(**ARGUMENTS)


def test_a_loop_of_ones_own_is_sent_to_on_ray() -> None:
    class ZerothOrder(raytrainer.Trainer):
        def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError

    with pytest.raises(ConfigurationError, match=r"_inner_training_loop.*no effect.*raytrainer\.on_ray"):
        ZerothOrder(**ARGUMENTS)


@pytest.mark.parametrize("name", sorted(NEVER_CALLED))
def test_every_override_that_is_never_called_is_refused_also_in_a_mixin(name: str) -> None:
    mixin = type("Mixin", (), {name: lambda self: "called"})
    cls = type("Mine", (mixin, raytrainer.Trainer), {})
    if name in CALLED_BY_THEIR_AUTHOR:
        assert getattr(cls(**ARGUMENTS), name)() == "called"
        return
    with pytest.raises(ConfigurationError, match=rf"Mixin\.{name} "):
        cls(**ARGUMENTS)


@pytest.mark.parametrize("name", sorted(NEVER_CALLED.keys() - ONLY_FOR_USERS))
def test_every_method_that_does_nothing_here_says_so_when_it_is_called(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"`Trainer.{name}` is not available"):
        getattr(raytrainer.Trainer(**ARGUMENTS), name)()


def test_methods_of_ones_own_and_those_that_are_called_never_warn() -> None:
    class Mine(raytrainer.Trainer):
        def _prepare_inputs(self, inputs: Any) -> Any:
            return super()._prepare_inputs(inputs)

        def _log_my_table(self) -> None:
            raise AssertionError

        def wrap_model(self) -> None:
            raise AssertionError

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Mine(**ARGUMENTS)
    assert caught == []


@pytest.mark.parametrize("name", ["create_accelerator_and_postprocess"])
def test_a_refused_method_says_what_to_do(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"`Trainer.{name}` is not available.*{re.escape(NEVER_CALLED[name].do)}"
    ):
        getattr(raytrainer.Trainer(**ARGUMENTS), name)()


def test_a_trial_that_is_not_a_dict_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, max_steps=1)
    with pytest.raises(ConfigurationError, match="got a trial that is a Fraction; a dict"):
        trainer.train(trial=Fraction(1, 2))


def test_a_dict_of_hyperparameters_reaches_model_init_hooks_and_state(tmp_path: Path) -> None:
    class Mine(raytrainer.Trainer):
        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            self.trial_of_the_save = trial
            super()._save_checkpoint(model, trial)

    trial = {"hidden": 3}
    trainer = Mine(
        model_init=lambda given: made.append(given) or make_model(),
        args=make_args(raytrainer, tmp_path, max_steps=1, save_strategy="steps", save_steps=1),
        train_dataset=make_samples(),
    )
    made: list[Any] = []
    trainer.train(trial=trial)
    assert made == [trial]
    assert trainer.trial_of_the_save == trainer.state.trial_params == trial
    assert trainer.state.is_hyper_param_search


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 7, "gradient_accumulation_steps": 3},
        {"num_train_epochs": 1.5},
        {"num_train_epochs": 2, "gradient_accumulation_steps": 2},
    ],
    ids=str,
)
def test_lengths_and_batch_are_those_of_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    said = []
    for library in (raytrainer, transformers):
        trainer = make_trainer(library, tmp_path, **options)
        loader = trainer.get_train_dataloader()
        said.append(
            [
                trainer.set_initial_training_values(trainer.args, loader),
                trainer.get_total_train_batch_size(trainer.args),
                (trainer.get_tp_size(), trainer.get_cp_size(), trainer.get_sp_size()),
            ]
        )
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("optim", "options"),
    [
        ("adamw_torch", {}),
        ("adamw_torch_fused", {"adam_beta2": 0.95}),
        ("sgd", {"optim_args": "momentum=0.5"}),
        ("adafactor", {}),
        ("adamw_bnb_8bit", {}),
        ("paged_lion_32bit", {}),
        ("galore_adamw", {"optim_target_modules": ["q_proj"]}),
        ("lomo", {}),
    ],
)
def test_the_class_of_an_optimizer_is_that_of_transformers(
    tmp_path: Path, optim: str, options: dict[str, Any]
) -> None:
    found = []
    for library in (raytrainer, transformers):
        args = make_args(library, tmp_path, optim=optim, **options)
        chosen, keywords = library.Trainer.get_optimizer_cls_and_kwargs(args, make_model())
        found.append((chosen, {name: repr(value) for name, value in keywords.items()}))
    assert isinstance(found[0][0], type)
    assert found[0] == found[1]


def test_the_class_of_an_optimizer_builds_it_with_its_keywords_changed(tmp_path: Path) -> None:
    args = make_args(raytrainer, tmp_path, optim="sgd", optim_args="momentum=0.5")
    make, keywords = raytrainer.Trainer.get_optimizer_cls_and_kwargs(args)
    optimizer = make(make_model().parameters(), **{**keywords, "lr": 0.25})
    assert type(optimizer) is torch.optim.SGD
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.25, 0.5)


def test_a_package_that_is_missing_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries.theirs, "is_bitsandbytes_available", lambda: False)
    args = raytrainer.TrainingArguments(optim="adamw_bnb_8bit")
    with pytest.raises(ImportError, match=r"pip install.*bitsandbytes"):
        raytrainer.Trainer.get_optimizer_cls_and_kwargs(args)


def test_an_optimizer_without_the_model_that_it_needs_is_refused() -> None:
    args = raytrainer.TrainingArguments(optim="lomo")
    with pytest.raises(ConfigurationError, match=r"optim='lomo'.*model"):
        raytrainer.Trainer.get_optimizer_cls_and_kwargs(args)
