"""The table of supported arguments is complete, and refusals say why and what to do."""

from __future__ import annotations

import dataclasses

import pytest

from raytrainer import ConfigurationError, TrainingArguments
from raytrainer.arguments.supported_fields import FIELDS, REFUSED, SUPPORTED, Refusal

NAMES = {field.name for field in dataclasses.fields(TrainingArguments)}


def test_every_argument_is_in_the_table():
    assert NAMES - FIELDS.keys() == set()


def test_the_table_knows_no_other_argument():
    assert FIELDS.keys() - NAMES == set()


def test_no_argument_is_in_the_table_twice():
    assert len(SUPPORTED) == len(set(SUPPORTED))
    assert not set(SUPPORTED) & REFUSED.keys()


def test_defaults_are_never_refused():
    defaults = TrainingArguments()
    refused = [
        name
        for name, rule in FIELDS.items()
        if isinstance(rule, Refusal) and not rule.allows(getattr(defaults, name))
    ]
    assert refused == []


ASKING = {
    "parallelism_config": [object()],
    "ddp_backend": ["mpi", "hccl"],
    "save_on_each_node": [True],
    "debug": ["tpu_metrics_debug"],
}


def test_every_refusal_is_tried():
    assert ASKING.keys() == REFUSED.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in ASKING.items() for value in values],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_refusal_says_why_and_what_to_do(name, value):
    with pytest.raises(
        ConfigurationError, match=f"`{name}`.*is not available in this version of raytrainer: "
    ) as caught:
        TrainingArguments(**{name: value})
    assert FIELDS[name].why in str(caught.value)
    assert str(caught.value).endswith(FIELDS[name].do)


@pytest.mark.parametrize(
    "harmless",
    [
        {"fsdp": ""},
        {"fsdp": False},
        {"debug": []},
        {"debug": "underflow_overflow"},
        {"train_sampling_strategy": "sequential"},
        {"ddp_backend": "gloo"},
        {"accelerator_config": {"non_blocking": True, "dispatch_batches": False}},
        {"torch_compile": False},
    ],
    ids=str,
)
def test_a_value_that_asks_for_nothing_is_accepted(harmless):
    TrainingArguments(**harmless)


def test_fields_of_a_subclass_are_its_own_business():
    @dataclasses.dataclass
    class Mine(TrainingArguments):
        push_everything: bool = True

    assert Mine().push_everything


@pytest.mark.parametrize(
    "name",
    [
        "ACCELERATE_USE_MEGATRON_LM",
        "ACCELERATE_USE_PARALLELISM_CONFIG",
    ],
)
def test_a_backend_asked_for_by_the_launcher_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "true")
    with pytest.raises(ConfigurationError, match=name):
        TrainingArguments()


def test_a_launchers_precision_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ConfigurationError, match="fp8"):
        TrainingArguments()


def test_a_launchers_precision_is_taken(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert TrainingArguments().mixed_precision == "bf16"
