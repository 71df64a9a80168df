"""``raytrainer launch``: accelerate's own parser reads the flags, and Ray starts the processes.

The script runs once, on this machine, as the driver. The flags and the config file become defaults of its
``TrainingArguments``: ``--num_processes=2`` is ``num_workers=2``, ``--use_fsdp`` is ``fsdp=True``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any, cast

from raytrainer.dialects.accelerate import LAUNCH_VARIABLE, load_file, translate
from raytrainer.dialects.accelerate_sharding import SHARDING_KINDS
from raytrainer.errors import ConfigurationError

_STARTING = (
    "training_script",
    "training_script_args",
    "module",
    "no_python",
    "config_file",
    "quiet",
    "help",
    "nondefault",
)
_FLAGS = {
    "cpu": ("use_cpu", True),
    "multi_gpu": ("distributed_type", "MULTI_GPU"),
    **{sharding.flag: ("distributed_type", kind) for kind, sharding in SHARDING_KINDS.items()},
    "use_megatron_lm": ("distributed_type", "MEGATRON_LM"),
    "tpu": ("distributed_type", "XLA"),
}
_FAMILIES = {
    "megatron_lm_": "Megatron-LM is not available; use fsdp",
    "fp8_": "fp8 is not available; use bf16",
    "parallelism_config_": "workers are data parallel; shard with fsdp",
    "aws_": "submit the script to Ray",
    "dynamo_": "set torch_compile_backend in TrainingArguments instead",
    "tpu_": "TPUs are not available",
    "mpirun_": "Ray starts the workers",
}
_OF_THE_SCRIPT = ("gradient_accumulation_steps", "gradient_clipping")


def launch(arguments: list[str]) -> int:
    """Run a script with the settings that accelerate's flags ask for.

    Args:
        arguments: Flags of ``accelerate launch``, the script, and the script's own arguments.

    Returns:
        The exit code of the script.

    Raises:
        ConfigurationError: For a flag that has no meaning on Ray or is not available, before the script starts.
    """
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    fields = translate(options_of(given), source="the command line")
    environment = {**os.environ, LAUNCH_VARIABLE: json.dumps(fields)}
    return subprocess.call(_command(given), env=environment)


def options_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that flags stand for, over those of the config file that applies.

    Args:
        given: The flags that were given, by accelerate's names.
    """
    options = dict(_file_options(given))
    sections: dict[str, dict[str, Any]] = {
        sharding.section: dict(options.pop(sharding.section, None) or {})
        for sharding in SHARDING_KINDS.values()
    }
    for name, (option, meaning) in _FLAGS.items():
        if given.get(name):
            options[option] = meaning
    kind = options.setdefault("distributed_type", "NO")
    for name, value in given.items():
        if name in _STARTING or name in _FLAGS:
            continue
        section = _section_of(name, kind)
        if section is None:
            options[name] = value
        else:
            sections[section][name] = value
    used = SHARDING_KINDS.get(kind)
    return options | ({used.section: sections[used.section]} if used and sections[used.section] else {})


def _section_of(name: str, kind: str) -> str | None:
    """The section of a config file that a flag belongs to, or None for the file itself.

    Raises:
        ConfigurationError: If the flag is not available, or needs another one.
    """
    used = SHARDING_KINDS.get(kind)
    if used is not None and used.has_flag(name):
        return used.section
    if name in _OF_THE_SCRIPT:
        raise ConfigurationError(f"--{name} is an argument of the script: put it after the script's name.")
    needed = next((sharding for sharding in SHARDING_KINDS.values() if sharding.has_flag(name)), None)
    if needed is not None:
        raise ConfigurationError(f"--{name} needs --{needed.flag}.")
    family = next((why for prefix, why in _FAMILIES.items() if name.startswith(prefix)), None)
    if family is not None:
        raise ConfigurationError(f"--{name} is not available: {family}.")
    return None


def _file_options(given: dict[str, Any]) -> dict[str, Any]:
    """Read the named file, or the default one that ``accelerate config`` wrote, as accelerate does."""
    from accelerate.commands.config.config_args import (
        default_config_file,
    )

    if given.get("config_file"):
        return load_file(given["config_file"])
    if os.path.isfile(default_config_file) and not given.get("cpu"):
        return load_file(default_config_file)
    return {}


def _parser() -> argparse.ArgumentParser:
    """Return accelerate's parser without its defaults, so that it reports only what was given."""
    from accelerate.commands.launch import (
        launch_command_parser,  # pyright: ignore[reportUnknownVariableType]
    )

    parser = cast("argparse.ArgumentParser", launch_command_parser())
    parser.usage = "raytrainer launch [FLAGS] SCRIPT.PY [ARGUMENTS OF THE SCRIPT]"
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return parser


def _command(given: dict[str, Any]) -> list[str]:
    rest = list(given.get("training_script_args") or [])
    if given.get("no_python"):
        return [given["training_script"], *rest]
    if given.get("module"):
        return [sys.executable, "-m", given["training_script"], *rest]
    return [sys.executable, given["training_script"], *rest]
