"""Every optimizer of the catalogue trains, logs the learning rate it uses, decays weights, and resumes bitwise."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback
from transformers.training_args import OptimizerNames

import raytrainer
from raytrainer.arguments import optimizer_names as registered
from raytrainer.errors import ConfigurationError
from raytrainer.optim import catalogue
from raytrainer.optim.traits import Entry, OptimizerRequest
from tests.parity.twins import LIBRARIES, make_args, make_model, make_samples, make_trainer, rows

_MODULES = {
    "bitsandbytes": "bitsandbytes",
    "schedulefree": "schedulefree",
    "optimi": "optimi",
    "torchao": "torchao",
}
ON_CPU = [entry for entry in catalogue.entries() if not entry.name.startswith("paged_")]
_FIRSTS = {entry.family: entry.name for entry in reversed(ON_CPU) if entry.family != "torchao"}
EVERY_ENTRY = [
    pytest.param(entry, id=entry.name, marks=() if entry.name in _FIRSTS.values() else pytest.mark.slow)
    for entry in ON_CPU
]
"""Slow are all but the first of each family, and those of torchao, which compile their step."""
RATES = {"sgd": 0.1, "adagrad": 0.05, "schedule_free_sgd": 0.5}
LION = 1e-3


def needs(entry: Entry) -> None:
    module = _MODULES.get(entry.family) or ("bitsandbytes" if entry.package else None)
    if module is not None and importlib.util.find_spec(module) is None:
        pytest.skip(f"{entry.package} is not installed")


def options_of(entry: Entry, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "optim": entry.name,
        "learning_rate": RATES.get(entry.name, LION if "lion" in entry.name else 1e-2),
        "weight_decay": 0.1,
        "max_steps": 6,
    }
    if entry.traits.takes_target_modules and entry.traits.default_targets is None:
        options |= {
            "optim_target_modules": "all-linear",
            "optim_args": "rank=8, update_proj_gap=3, scale=1.0",
        }
    return options | changes


class UsedRates(TrainerCallback):
    """Records the learning rate at the moment a step uses it."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(float(kwargs["optimizer"].param_groups[0]["lr"]))


def train(directory: Path, resume: Path | None = None, **options: Any) -> tuple[Any, UsedRates]:
    trainer = make_trainer(raytrainer, directory, model=make_model(dropout=0.0), **options)
    used = UsedRates()
    trainer.add_callback(used)
    trainer.train(resume_from_checkpoint=str(resume) if resume is not None else None)
    return trainer, used


@pytest.mark.parametrize("entry", EVERY_ENTRY)
def test_an_optimizer_trains_and_resumes_bitwise(tmp_path: Path, entry: Entry) -> None:
    needs(entry)
    options = options_of(entry, save_strategy="steps", save_steps=2)
    whole, used = train(tmp_path / "run", **options)
    assert used.rates == pytest.approx([row[3] for row in rows(whole)]), "the logged rate is the used one"
    assert len(set(used.rates)) == 6, "the schedule is obeyed"
    resumed, _ = train(tmp_path / "run", tmp_path / "run" / "checkpoint-4", **options)
    assert rows(resumed) == rows(whole)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


@pytest.mark.parametrize("entry", EVERY_ENTRY)
def test_an_optimizer_lowers_the_loss_and_its_weight_decay_has_an_effect(
    tmp_path: Path, entry: Entry
) -> None:
    needs(entry)
    samples = [{"input_ids": torch.arange(12), "labels": torch.arange(12)}] * 8
    trainers = []
    for decay in (0.0, 0.5):
        trainer = make_trainer(
            raytrainer,
            tmp_path / str(decay),
            model=make_model(dropout=0.0),
            **options_of(entry, weight_decay=decay, max_steps=20, lr_scheduler_type="constant"),
        )
        trainer.train_dataset = samples
        trainer.train()
        trainers.append(trainer)
    losses = [row[1] for row in rows(trainers[0])]
    assert losses[-1] < losses[0] - 0.3, losses
    matrix = "model.layers.0.mlp.up_proj.weight"
    free, decayed = (trainer.model.state_dict()[matrix].norm() for trainer in trainers)
    assert decayed < free


def test_every_name_of_transformers_is_in_the_catalogue_or_refused_with_a_reason() -> None:
    for name in OptimizerNames:
        if name.value in catalogue.REFUSED:
            with pytest.raises(ConfigurationError, match="is not available: "):
                catalogue.look_up(name.value)
        else:
            assert catalogue.look_up(name.value).name == name.value


@pytest.mark.parametrize("name", ["adamw_bnb_8bit", "lion_8bit", "rmsprop_bnb_8bit", "ademamix_8bit"])
def test_state_of_large_parameters_is_in_eight_bits(tmp_path: Path, name: str) -> None:
    needs(catalogue.look_up(name))
    weight = torch.nn.Parameter(torch.randn(64, 64))
    request = OptimizerRequest(
        groups=[{"params": [weight], "weight_decay": 0.0}],
        learning_rate=1e-3,
        adam_betas=(0.9, 0.999),
        adam_epsilon=1e-8,
    )
    optimizer = catalogue.build(catalogue.look_up(name), request)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.state[weight]["state1"].dtype == torch.uint8


@pytest.fixture
def own_settings_of_bitsandbytes() -> Iterator[None]:
    """transformers leaves settings by position there, which apply to every later optimizer of the process."""
    bnb = pytest.importorskip("bitsandbytes")
    yield
    bnb.optim.GlobalOptimManager.get_instance().initialize()


@pytest.mark.usefixtures("own_settings_of_bitsandbytes")
@pytest.mark.parametrize("given_as", ["optim", "optimizer_cls_and_kwargs"])
def test_embeddings_keep_32_bit_state_as_in_transformers(tmp_path: Path, given_as: str) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    states, losses = {}, {}
    for name, library in LIBRARIES.items():
        model = make_model(dropout=0.0)
        model.resize_token_embeddings(200, mean_resizing=False)
        options: dict[str, Any] = {"optim": "adamw_bnb_8bit"} if given_as == "optim" else {}
        trainer = library.Trainer(
            model=model,
            args=make_args(library, tmp_path / name, max_steps=2, **options),
            train_dataset=make_samples(),
            optimizer_cls_and_kwargs=None if options else (bnb.optim.AdamW, {"lr": 1e-2, "optim_bits": 8}),
        )
        trainer.train()
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        states[name] = {
            key: optimizer.state[weight]["state1"].dtype for key, weight in model.named_parameters()
        }
        losses[name] = rows(trainer)
    assert states["ours"]["model.embed_tokens.weight"] == torch.float32
    assert states["ours"]["lm_head.weight"] == torch.uint8
    assert states["ours"] == states["theirs"]
    assert losses["ours"] == [pytest.approx(row, abs=1e-6) for row in losses["theirs"]]


def test_a_paged_optimizer_on_the_cpu_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigurationError, match="quietly not page"):
        train(tmp_path, optim="paged_adamw_8bit", max_steps=1)


def test_an_optimizer_of_the_user_is_registered_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "_CATALOGUE", dict(catalogue._CATALOGUE))
    raytrainer.register_optimizer(
        "mine",
        lambda request: torch.optim.NAdam(request.groups, lr=request.learning_rate, **request.options),
        options={"momentum_decay": float},
    )
    trainer, _ = train(tmp_path, optim="mine", optim_args="momentum_decay=0.01", max_steps=2)
    assert type(trainer.optimizer) is torch.optim.NAdam
    with pytest.raises(ConfigurationError, match="Choose another name"):
        raytrainer.register_optimizer("mine", lambda request: torch.optim.SGD(request.groups))
    with pytest.raises(ConfigurationError, match="registered for whole parameters"):
        train(tmp_path, optim="mine", fsdp=True, max_steps=1)
    registered.OPTIMIZERS.discard("mine")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optim": "sgd", "optim_args": "momentm=0.9"}, r"Did you mean 'momentum'"),
        ({"optim": "sgd", "optim_args": "momentum=much"}, r"momentum=much, but a number was expected"),
        ({"optim": "sgd", "optim_args": "nesterov=perhaps"}, r"true or false"),
        ({"optim": "sgd", "optim_args": "momentum"}, r"not of the form `key=value`"),
        ({"optim": "galore_adamw"}, r"optim_target_modules names none"),
        ({"optim": "galore_adamw", "optim_target_modules": ["atn"]}, r"'atn', which names no module.*self_attn"),
        ({"optim": "galore_adamw", "optim_target_modules": "model.norm"}, r"names no linear layer"),
        ({"optim": "adamw_torch", "optim_target_modules": "all-linear"}, r"has no meaning for optim='adamw_torch'"),
        (
            {"optim": "galore_adamw", "optim_target_modules": "all-linear"}
            | {"deepspeed": {"zero_optimization": {"stage": 3}}},
            r"flat runs of many parameters",
        ),
        (
            {"optim": "galore_adamw", "optim_target_modules": "all-linear", "auto_find_batch_size": True},
            r"exchanges projected gradients",
        ),
        (
            {"optim": "adafactor", "deepspeed": {"zero_optimization": {"stage": 2}}},
            r"factors whole matrices",
        ),
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_done_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"(?s){words}"):
        train(tmp_path, max_steps=1, **changes)
