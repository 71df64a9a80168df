"""Folds Ray's own ``ScalingConfig`` and ``RunConfig`` into the flat fields of the arguments.

For users who already have Ray's objects. Each option keeps the meaning that it has in Ray; contradictions are errors,
and so are options that this package does not support. An argument counts as given if its value is not the default; an
option of Ray's objects, if it is not None and not what ``RunConfig`` fills in by itself. The objects are read by
attribute: this file never imports ray.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import is_uri, split

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments

logger = logging.getLogger(__name__)

DEFAULT_OUTPUT_DIR = "trainer_output"
"""What ``output_dir=None`` becomes."""
_RAY_STORAGE = "~/ray_results"
_RAY_RUN_NAME = "ray_train_run-"
"""Prefix of the names that ``RunConfig`` generates for unnamed runs."""

_SHARED = (
    "num_workers",
    "use_gpu",
    "resources_per_worker",
    "placement_strategy",
    "accelerator_type",
    "label_selector",
)
_RAY_DEFAULTS = {"num_workers": 1, "use_gpu": False, "placement_strategy": "PACK"}

_Refusal = tuple[str, Callable[[Any], bool], str]
_SCALING_REFUSALS: tuple[_Refusal, ...] = (
    ("use_tpu", lambda v: not v, "workers train on CPUs and GPUs only. Leave it out"),
    ("topology", lambda v: v is None, "it is for TPUs. Leave it out"),
    ("trainer_resources", lambda v: not v, "nothing runs beside the workers. Leave it out"),
    (
        "elastic_resize_monitor_interval_s",
        lambda v: v in (None, 60.0),
        "the driver notices room for more workers as it comes. Leave it out",
    ),
)
_RUN_REFUSALS: tuple[_Refusal, ...] = (
    (
        "storage_filesystem",
        lambda v: v is None,
        "the file system is opened from the URI in output_dir (s3://, gs://, abfs://, ...). Leave it out",
    ),
    (
        "callbacks",
        lambda v: not v,
        "they are callbacks of Ray Train. Pass TrainerCallbacks as callbacks= to the Trainer",
    ),
    (
        "worker_runtime_env",
        lambda v: not v,
        "workers get the environment of the whole job. Pass runtime_env to ray.init() or to `ray job submit`",
    ),
)
_FAILURE_REFUSALS: tuple[_Refusal, ...] = (
    ("controller_failure_limit", lambda v: v in (None, -1), "leave it at -1"),
    (
        "max_preemption_failures",
        lambda v: v in (None, -1),
        "leave it at -1; max_failures limits all restarts",
    ),
    ("relax_collectives_on_preemption", lambda v: not v, "checkpoints do not go through Ray's collectives"),
    ("preemption_grace_s", lambda v: not v, "checkpoints do not go through Ray's reports"),
)
_CHECKPOINT_REFUSALS: tuple[_Refusal, ...] = (
    ("num_to_keep", lambda v: v is None, "set save_total_limit in TrainingArguments"),
    (
        "checkpoint_score_attribute",
        lambda v: v is None,
        "set metric_for_best_model and load_best_model_at_end in TrainingArguments",
    ),
    ("checkpoint_score_order", lambda v: v in (None, "max"), "set greater_is_better in TrainingArguments"),
)
_LOGGING_REFUSALS: tuple[_Refusal, ...] = (
    ("log_level", lambda v: v in (None, "INFO"), "set log_level in TrainingArguments"),
)


def merge_ray_objects(
    args: TrainingArguments, scaling_config: object = None, run_config: object = None
) -> None:
    """Fold Ray's objects into the fields of ``args``, which is changed in place.

    Args:
        args: The arguments, normalized.
        scaling_config: A ``ray.train.ScalingConfig``, or None.
        run_config: A ``ray.train.RunConfig``, or None.

    Raises:
        ConfigurationError: If they contradict each other, or an object asks for what is not supported.
    """
    if scaling_config is not None:
        _expect("scaling_config", scaling_config, "num_workers", "ray.train.ScalingConfig")
        _merge_scaling(args, scaling_config)
    if run_config is not None:
        _expect("run_config", run_config, "storage_path", "ray.train.RunConfig")
        _merge_run(args, run_config)


def _expect(keyword: str, config: object, attribute: str, wanted: str) -> None:
    if not hasattr(config, attribute):
        raise ConfigurationError(
            f"{keyword}= got a {type(config).__name__}, but a {wanted} was expected. Pass one, or set "
            "the options in TrainingArguments (num_workers, use_gpu, max_failures, output_dir, ...)."
        )


def _merge_scaling(args: TrainingArguments, config: object) -> None:
    _refuse(config, "scaling_config", _SCALING_REFUSALS)
    if isinstance(getattr(config, "label_selector", None), list):
        raise ConfigurationError(
            "scaling_config.label_selector is a list with one selector per worker, but here all workers get "
            "the same one. Give one dict of labels."
        )
    for name in _SHARED:
        theirs = getattr(config, name, None)
        if theirs is None:
            continue
        ours = getattr(args, name)
        if not _is_given(args, name) or ours == theirs:
            setattr(args, name, theirs)
            continue
        note = " (Ray's default, if you did not set it)" if _RAY_DEFAULTS.get(name, MISSING) == theirs else ""
        raise ConfigurationError(
            f"TrainingArguments says {name}={ours!r} and scaling_config says {name}={theirs!r}{note}. They "
            "must agree: set it in one place only."
        )


def _merge_run(args: TrainingArguments, config: object) -> None:
    _refuse(config, "run_config", _RUN_REFUSALS)
    _refuse(getattr(config, "checkpoint_config", None), "run_config.checkpoint_config", _CHECKPOINT_REFUSALS)
    _refuse(getattr(config, "logging_config", None), "run_config.logging_config", _LOGGING_REFUSALS)
    failure = getattr(config, "failure_config", None)
    _refuse(failure, "run_config.failure_config", _FAILURE_REFUSALS)
    _merge_failures(args, getattr(failure, "max_failures", None))
    _merge_output_dir(args, config)


def _merge_failures(args: TrainingArguments, theirs: int | None) -> None:
    if not theirs:
        # RunConfig puts 0 there by itself, so it cannot be read as a wish for no restarts.
        if theirs == 0 and args.max_failures != 0:
            logger.info(
                "run_config leaves max_failures at 0, Ray's default; workers are restarted up to %d "
                "times. Set max_failures=0 in TrainingArguments for no restart.",
                args.max_failures,
            )
        return
    if _is_given(args, "max_failures") and args.max_failures != theirs:
        raise ConfigurationError(
            f"TrainingArguments says max_failures={args.max_failures} and run_config.failure_config says "
            f"max_failures={theirs}. They must agree: set it in one place only."
        )
    args.max_failures = theirs


def _merge_output_dir(args: TrainingArguments, config: object) -> None:
    name = getattr(config, "name", None)
    storage = getattr(config, "storage_path", None)
    named = bool(name) and not str(name).startswith(_RAY_RUN_NAME)
    default_storage = os.path.expanduser(_RAY_STORAGE)
    stored = storage is not None and os.path.expanduser(str(storage)) != default_storage
    if not named and not stored:
        return
    parent = str(storage) if storage is not None else default_storage
    theirs = f"{parent.rstrip('/')}/{name}" if name else parent
    ours = args.output_dir
    if ours in (None, DEFAULT_OUTPUT_DIR):
        args.output_dir = theirs
        return
    around = split(ours)[0] if is_uri(ours) else os.path.dirname(os.path.abspath(ours))
    inside = not named and _is_same_place(around, parent)
    if not inside and not _is_same_place(ours, theirs):
        raise ConfigurationError(
            f"TrainingArguments says output_dir={ours!r} and run_config puts the run into {theirs!r} "
            "(storage_path/name). They must be the same directory: set it in one place only."
        )


def _is_same_place(one: str, other: str) -> bool:
    if "://" in one or "://" in other:
        return one.rstrip("/") == other.rstrip("/")
    return os.path.abspath(os.path.expanduser(one)) == os.path.abspath(os.path.expanduser(other))


def _is_given(args: TrainingArguments, name: str) -> bool:
    """Whether a field was set to something other than its default."""
    default = next(field.default for field in fields(args) if field.name == name)
    return getattr(args, name) != default


def _refuse(config: object, where: str, refusals: tuple[_Refusal, ...]) -> None:
    for name, is_harmless, advice in refusals:
        value = getattr(config, name, None)
        if not is_harmless(value):
            raise ConfigurationError(
                f"{where}.{name}={value!r} is not supported by this version of raytrainer: {advice}."
            )
