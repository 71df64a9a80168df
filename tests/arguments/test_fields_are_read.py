"""Every honored argument is read by code that acts on it, not only stored and checked."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import transformers

import raytrainer
from raytrainer.arguments.supported_fields import SUPPORTED

ROOT = Path(raytrainer.__file__).parent
CHECKS = {"aliases.py", "combinations.py", "differences.py", "fields.py", "rules.py", "values.py"}
"""Files of config/ that say what is allowed, and do nothing."""

_STEPS = ("trainer_callback.py", 'getattr(args, f"{step_kind}_steps")')
ELSEWHERE: dict[str, tuple[str, str]] = {
    "eval_delay": ("trainer_callback.py", "args.eval_delay"),
    "eval_steps": _STEPS,
    "logging_steps": _STEPS,
    "save_steps": _STEPS,
    "eval_strategy": ("trainer_callback.py", "args.eval_strategy"),
    "logging_first_step": ("trainer_callback.py", "args.logging_first_step"),
    "logging_strategy": ("trainer_callback.py", "args.logging_strategy"),
    "fp16": ("training_args.py", "if self.fp16:"),
    "log_level": ("training_args.py", "trainer_log_levels[self.log_level]"),
    "log_level_replica": ("training_args.py", "trainer_log_levels[self.log_level_replica]"),
    "log_on_each_node": ("training_args.py", "if self.log_on_each_node:"),
    "run_name": ("integrations/integration_utils.py", "args.run_name"),
    "project": ("integrations/integration_utils.py", "args.project"),
    "trackio_bucket_id": ("integrations/integration_utils.py", "args.trackio_bucket_id"),
    "trackio_static_space_id": ("integrations/integration_utils.py", "args.trackio_static_space_id"),
    "gradient_checkpointing": ("training_args.py", '("gradient_checkpointing", "activation_checkpointing")'),
    "gradient_checkpointing_kwargs": (
        "training_args.py",
        '("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")',
    ),
}
"""Arguments that code of transformers reads which this package calls (the default flow, the state, the reporters, the
levels of logging, the normalization of arguments): the file there, and its words."""

OF_SCRIPTS: dict[str, str] = {
    "do_train": "a flag for scripts, as in transformers",
    "do_eval": "a flag for scripts, as in transformers",
    "do_predict": "a flag for scripts, as in transformers",
    "resume_from_checkpoint": "a flag for scripts, which pass it to train(), as in transformers",
}
"""Arguments that transformers does not read either."""

BY_NAME: dict[str, tuple[str, str]] = {
    "ddp_bucket_cap_mb": ("backends/choose.py", '"bucket_cap_mb"'),
    "ddp_broadcast_buffers": ("backends/choose.py", '"broadcast_buffers"'),
    "ddp_static_graph": ("backends/choose.py", '"static_graph"'),
    "accelerate_config": ("arguments/training_arguments.py", 'keywords["accelerate_config"]'),
}
"""Arguments that are read by a name that is put together, with the file and words of it."""


def attributes_read(paths: list[Path]) -> set[str]:
    return {
        node.attr
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


READ = attributes_read(
    [path for path in ROOT.rglob("*.py") if not (path.parent.name == "config" and path.name in CHECKS)]
)


@pytest.mark.parametrize("name", SUPPORTED)
def test_an_honoured_argument_is_read(name: str) -> None:
    known = ELSEWHERE.keys() | OF_SCRIPTS.keys() | BY_NAME.keys()
    assert name in READ or name in known, f"nothing reads args.{name}: build it, or refuse it"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_argument_that_transformers_reads_is_read_there(name: str) -> None:
    path, words = ELSEWHERE[name]
    assert words in (Path(transformers.__file__).parent / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BY_NAME)
def test_an_argument_that_is_read_by_name_is_named_there(name: str) -> None:
    path, words = BY_NAME[name]
    assert words in (ROOT / path).read_text(encoding="utf-8")


def test_exceptions_are_arguments_that_are_honoured() -> None:
    assert (ELSEWHERE.keys() | OF_SCRIPTS.keys() | BY_NAME.keys()) - set(SUPPORTED) == set()
