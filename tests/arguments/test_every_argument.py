"""Every honored argument and every earlier name means the same on a command line, in a dict, JSON, YAML and Python."""

from __future__ import annotations

import json
import types
import typing
import warnings
from pathlib import Path
from typing import Any

import pytest

from raytrainer import ConfigurationError, HfArgumentParser, TrainingArguments
from raytrainer.arguments.aliases import ALIASES, Alias
from raytrainer.arguments.supported_fields import FIELDS, REFUSED, SUPPORTED

DEFAULTS = TrainingArguments()
PARSER = HfArgumentParser(TrainingArguments)
TYPES = typing.get_type_hints(TrainingArguments)

SAMPLES: dict[str, Any] = {
    "accelerator_config": {"non_blocking": True},
    "accelerate_config": None,  # a file: see test_accelerate_words.py
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "adam_beta1": 0.8,
    "async_save_overlap": "merge",
    "adam_beta2": 0.95,
    "dataloader_multiprocessing_context": "spawn",
    "ddp_backend": "mpi",
    "debug": "underflow_overflow",
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "eval_strategy": "epoch",
    "fsdp": "full_shard auto_wrap",
    "fsdp_config": {"reshard_after_forward": False},
    "hub_strategy": "checkpoint",
    "include_for_metrics": ["inputs", "loss"],
    "include_num_input_tokens_seen": "non_padding",
    "label_selector": {"zone": "a"},
    "liger_kernel_config": {"rope": True},
    "log_level": "info",
    "log_level_replica": "error",
    "logging_strategy": "epoch",
    "lr_scheduler_kwargs": {"num_cycles": 2},
    "lr_scheduler_type": "cosine",
    "optim": "adafactor",
    "optim_args": "momentum=0.9, nesterov=true",
    "optim_target_modules": ["attn", "mlp"],
    "placement_strategy": "SPREAD",
    "report_to": ["tensorboard"],
    "resources_per_worker": {"CPU": 2, "GPU": 0.5},
    "save_strategy": "epoch",
    "torch_compile_backend": "inductor",
    "torch_compile_mode": "default",
    "train_sampling_strategy": "sequential",
}
"""Values of arguments that not every value of their type suits."""

COMPANIONS: dict[str, dict[str, Any]] = {
    "async_save_overlap": {"async_save": True},
    "dataloader_persistent_workers": {"dataloader_num_workers": 1},
    "dataloader_prefetch_factor": {"dataloader_num_workers": 1},
    "dataloader_multiprocessing_context": {"dataloader_num_workers": 1},
    "eval_steps": {"eval_strategy": "steps"},
    "load_best_model_at_end": {"eval_strategy": "epoch", "save_strategy": "epoch"},
    "greater_is_better": {"metric_for_best_model": "accuracy"},
    "fsdp_config": {"fsdp": "full_shard"},
    "use_gpu": {"num_workers": 1},
    "hub_revision": {"push_to_hub": True, "hub_model_id": "me/model"},
    "hub_strategy": {"push_to_hub": True, "hub_model_id": "me/model"},
    "hub_always_push": {"push_to_hub": True, "hub_model_id": "me/model"},
    "hub_private_repo": {"push_to_hub": True, "hub_model_id": "me/model"},
    "hub_token": {"push_to_hub": True, "hub_model_id": "me/model"},
    "push_to_hub": {"hub_model_id": "me/model"},
    "liger_kernel_config": {"use_liger_kernel": True},
    "trackio_space_id": {"report_to": ["trackio"]},
    "trackio_bucket_id": {"report_to": ["trackio"], "trackio_space_id": "me/space"},
    "trackio_static_space_id": {"report_to": ["trackio"], "push_to_hub": True, "hub_model_id": "me/model"},
    "train_sampling_strategy": {"length_column_name": "length"},
}
"""What an argument needs beside it."""


def sample(name: str) -> Any:
    """A value other than the default, by the argument's type."""
    if name in SAMPLES:
        return SAMPLES[name]
    annotation, default = TYPES[name], getattr(DEFAULTS, name)
    kinds = set(typing.get_args(annotation)) if isinstance(annotation, types.UnionType) else {annotation}
    if bool in kinds:
        return not default
    if float in kinds:
        return 0.25 if default != 0.25 else 0.5
    if int in kinds:
        return 3 if default != 3 else 4
    return ["one", "two"] if kinds & {list[str]} else "something"


def words(name: str, value: Any) -> list[str]:
    """An argument as it is written on a command line."""
    if isinstance(value, list):
        return [f"--{name}", *value]
    if isinstance(value, dict):
        return [f"--{name}", json.dumps(value)]
    return [f"--{name}", str(value)]


def parse(options: dict[str, Any], source: str, directory: Path) -> TrainingArguments:
    if source == "command line":
        line = [word for name, value in options.items() for word in words(name, value)]
        return PARSER.parse_args_into_dataclasses(line, look_for_args_file=False)[0]
    if source == "dict":
        return PARSER.parse_dict(options)[0]
    path = directory / "options"
    if source == "json":
        path.write_text(json.dumps(options))
        return PARSER.parse_json_file(path)[0]
    path.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in options.items()))
    return PARSER.parse_yaml_file(path)[0]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in SUPPORTED if SAMPLES.get(name, True) is not None])
def test_an_argument_says_the_same_from_everywhere(name: str, tmp_path: Path) -> None:
    options = {**COMPANIONS.get(name, {}), name: sample(name)}
    expected = getattr(TrainingArguments(**options), name)
    assert expected != getattr(DEFAULTS, name), "the sample asks for something"
    for source in ("command line", "dict", "json", "yaml"):
        found = getattr(parse(options, source, tmp_path), name)
        assert found == expected, source
        assert type(found) is type(expected), source


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_argument_is_refused_from_the_command_line(name: str, tmp_path: Path) -> None:
    value = {"debug": "tpu_metrics_debug"}.get(name, sample(name))
    if name == "parallelism_config":
        pytest.skip("an object, which no command line has")
    with pytest.raises(ConfigurationError, match=f"{name}"):
        parse({name: value}, "command line", tmp_path)


def of_alias(alias: Alias) -> Any:
    """A value that is accepted for an earlier name."""
    known = {
        "warmup_ratio": 0.1,
        "evaluation_strategy": "steps",
        "xpu_backend": "gloo",
        "torchdynamo": "eager",
    }
    if alias.name in known:
        return known[alias.name]
    if alias.harmless is not None:
        return next(
            (value for value in alias.harmless if isinstance(value, alias.kind) and value != ""), None
        )
    return {bool: True, int: 3, float: 0.5, str: "something"}[alias.kind]


def is_refused(alias: Alias, value: Any) -> bool:
    rules = [(FIELDS[field], new) for field, new in alias.translate(value).items()]
    return any(rule in REFUSED.values() and not rule.allows(new) for rule, new in rules)


@pytest.mark.parametrize("alias", ALIASES.values(), ids=lambda alias: alias.name)
def test_an_earlier_name_on_the_command_line_warns_once_or_is_refused(alias: Alias, tmp_path: Path) -> None:
    value = of_alias(alias)
    if value is None:
        pytest.skip("its harmless values cannot be written on a command line; see test_aliases.py")
    options = {alias.name: value}
    if alias.name.startswith("fsdp_"):
        options["fsdp"] = "full_shard"
    if alias.name.startswith("push_to_hub_"):
        options["push_to_hub"] = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if is_refused(alias, value):
            with pytest.raises(ConfigurationError, match="not available"):
                parse(options, "command line", tmp_path)
        else:
            args = parse(options, "command line", tmp_path)
            assert getattr(args, alias.name) == value or alias.field is not None
    about = [str(warning.message) for warning in caught if f"`{alias.name}`" in str(warning.message)]
    assert len(about) == 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--fsdp true", "fsdp", True),
        ("--fsdp false", "fsdp", None),
        ("--optim galore_adamw --optim_target_modules all-linear", "optim_target_modules", "all-linear"),
        ("--report_to tensorboard wandb", "report_to", ["tensorboard", "wandb"]),
        ("--report_to none", "report_to", []),
        ("--include_num_input_tokens_seen", "include_num_input_tokens_seen", "all"),
        ("--include_num_input_tokens_seen no", "include_num_input_tokens_seen", "no"),
        ("--include_num_input_tokens_seen false", "include_num_input_tokens_seen", "no"),
        ("--seed 3", "include_num_input_tokens_seen", "no"),
        ("--no_average_tokens_across_devices", "average_tokens_across_devices", False),
    ],
)
def test_spellings_of_the_command_line(line: str, name: str, value: Any) -> None:
    (args,) = PARSER.parse_args_into_dataclasses(line.split(), look_for_args_file=False)
    assert getattr(args, name) == value
