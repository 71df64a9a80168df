"""Translates accelerate's options into fields of ``TrainingArguments``.

A config file, the flags of ``raytrainer launch`` and the environment of ``accelerate launch`` use the same options
(``num_processes``, ``mixed_precision``, ``fsdp_sharding_strategy``, ...). Processes become workers, machines become a
placement. An option that has no meaning on Ray, or is not available, is refused with what to use instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from raytrainer.dialects.accelerate_sharding import SHARDING_KINDS
from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import did_you_mean

LAUNCH_VARIABLE = "RAYTRAINER_LAUNCH"
"""The fields that ``raytrainer launch`` was given, as JSON, for the arguments that its script constructs."""

_KINDS: dict[str, dict[str, Any]] = {
    "NO": {},
    "MULTI_CPU": {"use_cpu": True},
    "MULTI_GPU": {"use_gpu": True},
    **{kind: {} for kind in SHARDING_KINDS},
}
_OTHER_KINDS = {
    "MEGATRON_LM": "Megatron-LM is not available; use fsdp",
    "XLA": "TPUs are not available",
    "TP": "tensor parallelism is not available; use fsdp",
}
_ON_RAY = {
    "machine_rank": "Ray numbers the nodes itself; join them with `ray start --address HEAD:6379`",
    "main_process_ip": "workers find each other through Ray; name a cluster with ray_address or RAY_ADDRESS",
    "main_process_port": "workers find each other through Ray",
    "gpu_ids": "Ray assigns GPUs; use accelerator_type or label_selector, or CUDA_VISIBLE_DEVICES on the node",
    "rdzv_backend": "workers find each other through Ray",
    "rdzv_conf": "workers find each other through Ray",
    "same_network": "workers find each other through Ray",
    "monitor_interval": "Ray watches the workers",
    "tee": "every rank writes its log to output_dir/logs",
    "log_dir": "every rank writes its log to output_dir/logs",
    "role": "workers have no roles",
    "num_cpu_threads_per_process": "cores are reserved per worker; use resources_per_worker='{\"CPU\": 4}'",
    "enable_cpu_affinity": "Ray places the workers; use resources_per_worker",
}
"""Options about starting processes -> what to use instead."""
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "machine_rank": (0, "0"),
    "gpu_ids": ("all",),
    "rdzv_backend": ("static",),
    "same_network": (True, False),
    "enable_cpu_affinity": (False,),
    "main_process_ip": ("127.0.0.1", "localhost"),
}
"""Values that a config file for one machine contains and that have no effect."""
_NEVER = {
    "megatron_lm_config": "Megatron-LM is not available",
    "fp8_config": "fp8 is not available; use bf16",
    "parallelism_config": "workers are data parallel; shard with fsdp",
    "mpirun_config": "Ray starts the workers",
    "dynamo_config": "set torch_compile_backend in TrainingArguments instead",
    "dynamo_backend": "set torch_compile_backend in TrainingArguments instead",
    "tpu_name": "TPUs are not available",
    "tpu_zone": "TPUs are not available",
    "tpu_use_cluster": "TPUs are not available",
    "tpu_use_sudo": "TPUs are not available",
    "tpu_env": "TPUs are not available",
    "tpu_vm": "TPUs are not available",
    "commands": "TPUs are not available",
    "command_file": "TPUs are not available",
    "downcast_bf16": "TPUs are not available",
}
_READ = (
    "compute_environment",
    "debug",
    "distributed_type",
    "main_training_function",
    "max_restarts",
    "mixed_precision",
    "num_machines",
    "num_processes",
    "use_cpu",
    *(kind.section for kind in SHARDING_KINDS.values()),
)


def fields_from_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file that ``accelerate config`` wrote, YAML or JSON.

    Raises:
        ConfigurationError: If the file cannot be read (with line and column), or asks for what is not available.
    """
    return translate(load_file(path), source=str(path))


def load_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the options of a config file.

    Raises:
        ConfigurationError: If it is not an accelerate config in YAML or JSON.
    """
    try:
        found: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # JSON is YAML
    except OSError as error:
        raise ConfigurationError(f"The accelerate config {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        what = getattr(error, "problem", None) or error
        raise ConfigurationError(f"The accelerate config {path} is not valid YAML: {where}{what}.") from error
    if not isinstance(found, dict) or "distributed_type" not in found:
        raise ConfigurationError(
            f"{path} is not an accelerate config, because it has no distributed_type. `accelerate config` writes one."
        )
    return cast("dict[str, Any]", found)


def translate(options: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Translate accelerate's options into fields of ``TrainingArguments``.

    Args:
        options: The options, by their names in a config file.
        source: Where they come from, for messages.

    Raises:
        ConfigurationError: For an option that is unknown, has no meaning on Ray, or is not available.
    """
    for option, value in options.items():
        _check_option(option, value, source)
    kind = str(options.get("distributed_type", "NO")).upper()
    if kind not in _KINDS:
        why = _OTHER_KINDS.get(kind, f"use one of {', '.join(_KINDS)}")
        raise ConfigurationError(f"{source}: distributed_type={kind} is not available: {why}.")
    found: dict[str, Any] = dict(_KINDS[kind])
    if options.get("use_cpu"):
        found = {**found, "use_cpu": True}
        found.pop("use_gpu", None)
    sharding = SHARDING_KINDS.get(kind)
    if sharding is not None:
        found |= sharding.from_section(options.get(sharding.section) or {}, source)
    processes = options.get("num_processes")
    if processes is not None:
        found["num_workers"] = _count("num_processes", processes, source)
    if _count("num_machines", options.get("num_machines") or 1, source) > 1:
        found["placement_strategy"] = "SPREAD"
    if options.get("max_restarts"):
        found["max_failures"] = _count("max_restarts", options["max_restarts"], source)
    return found | _precision(options.get("mixed_precision"), source)


def merge(
    given: dict[str, Any], found: Mapping[str, Any], *, source: str, defaults: Mapping[str, Any]
) -> None:
    """Add fields from elsewhere to those that a user gave.

    Args:
        given: Keywords of ``TrainingArguments``; changed in place.
        found: The fields to add.
        source: Where they come from, for messages.
        defaults: Default of each field. A keyword at its default counts as not given, since parsers pass all of them.

    Raises:
        ConfigurationError: If the two contradict each other.
    """
    for name, value in found.items():
        mine = given.get(name)
        if mine is not None and mine != value and mine != defaults.get(name):
            raise ConfigurationError(
                f"{name}={mine!r}, but {source} says {name}={value!r}. Keep one of the two."
            )
        given[name] = value


def fields_from_environment(environment: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Read what ``raytrainer launch`` and ``accelerate launch`` left for the script.

    Returns:
        For each of them that did, its name and the fields.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    if environment.get(LAUNCH_VARIABLE):
        found.append(("raytrainer launch", json.loads(environment[LAUNCH_VARIABLE])))
    return found + [
        ("accelerate launch", kind.from_environment(environment))
        for kind in SHARDING_KINDS.values()
        if environment.get(kind.variable, "").lower() in ("1", "true")
    ]


def _check_option(option: str, value: object, source: str) -> None:
    if option in _NEVER:
        if not _is_off(option, value):
            raise ConfigurationError(f"{source}: {option} is not available: {_NEVER[option]}. Leave it out.")
    elif option in _ON_RAY:
        if value not in (None, "", *_HARMLESS.get(option, ())):
            raise ConfigurationError(
                f"{source}: {option}={value!r} has no meaning on Ray: {_ON_RAY[option]}."
            )
    elif option not in _READ:
        hint = did_you_mean(option, [*_READ, *_ON_RAY, *_NEVER])
        raise ConfigurationError(f"{source}: {option} is not an option of accelerate.{hint}")
    if option == "compute_environment" and str(value) != "LOCAL_MACHINE":
        raise ConfigurationError(
            f"{source}: compute_environment={value} is not available. Use LOCAL_MACHINE, and submit the script to Ray."
        )


def _is_off(option: str, value: object) -> bool:
    if option == "dynamo_config" and isinstance(value, Mapping):
        return str(cast("Mapping[str, Any]", value).get("dynamo_backend", "NO")).upper() == "NO"
    return value in (None, False, {}, [], "", "no", "NO")


def _precision(value: object, source: str) -> dict[str, Any]:
    word = str(value).lower()  # YAML reads a bare `no` as False
    if value is None or word in ("no", "false"):
        return {}
    if word in ("bf16", "fp16"):
        return {word: True}
    raise ConfigurationError(f"{source}: mixed_precision={value!r} is not available. Use no, bf16 or fp16.")


def _count(option: str, value: Any, source: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ConfigurationError(f"{source}: {option}={value!r} is not an integer of at least 1. Give one.")
    return number
