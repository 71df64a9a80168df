"""The public names of raytrainer, each resolved when it is first read.

A name is looked up in ``_HOMES`` and its module imported at that moment, so ``import raytrainer`` costs
milliseconds and loads neither torch nor ray nor transformers: a driver, a command line with a typo in it, or an
editor should not wait seconds for them. Type checkers read the block under ``TYPE_CHECKING``.

This file holds no logic, and never imports at module level anything that imports one of those three.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from raytrainer._version import __version__
from raytrainer.errors import (
    CheckpointError,
    ConfigurationError,
    DispatchError,
    EngagementError,
    GroupClosedError,
    HubError,
    MetricError,
    MissingPackageError,
    ModelError,
    PlacementError,
    RayTrainerError,
    TrainingFailed,
    UnknownArgumentError,
    WrongTypeError,
)
from raytrainer.foreign_warnings import send_to_file
from raytrainer.peft_on_use import import_peft_on_use
from raytrainer.told import keep_from_last_resort

if TYPE_CHECKING:
    from transformers.trainer_callback import (
        DefaultFlowCallback,
        EarlyStoppingCallback,
        PrinterCallback,
        ProgressCallback,
        TrainerCallback,
        TrainerControl,
        TrainerState,
    )
    from transformers.trainer_utils import (
        EvalLoopOutput,
        EvalPrediction,
        IntervalStrategy,
        PredictionOutput,
        SaveStrategy,
        SchedulerType,
        TrainOutput,
        get_last_checkpoint,  # pyright: ignore[reportUnknownVariableType]
        set_seed,
    )

    from raytrainer.arguments.parser import HfArgumentParser
    from raytrainer.arguments.training_arguments import TrainingArguments
    from raytrainer.hooks import TrainerHooks
    from raytrainer.libraries.on_ray import on_ray
    from raytrainer.libraries.patch import patch_transformers
    from raytrainer.optim.catalogue import register_optimizer
    from raytrainer.seq2seq.arguments import Seq2SeqTrainingArguments
    from raytrainer.seq2seq.trainer import Seq2SeqTrainer
    from raytrainer.sft.config import SFTConfig
    from raytrainer.sft.trainer import SFTTrainer
    from raytrainer.trainer import Trainer

__all__ = [
    "CheckpointError",
    "ConfigurationError",
    "DefaultFlowCallback",
    "DispatchError",
    "EarlyStoppingCallback",
    "EngagementError",
    "EvalLoopOutput",
    "EvalPrediction",
    "GroupClosedError",
    "HfArgumentParser",
    "HubError",
    "IntervalStrategy",
    "MetricError",
    "MissingPackageError",
    "ModelError",
    "PlacementError",
    "PredictionOutput",
    "PrinterCallback",
    "ProgressCallback",
    "RayTrainerError",
    "SFTConfig",
    "SFTTrainer",
    "SaveStrategy",
    "SchedulerType",
    "Seq2SeqTrainer",
    "Seq2SeqTrainingArguments",
    "TrainOutput",
    "Trainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerHooks",
    "TrainerState",
    "TrainingArguments",
    "TrainingFailed",
    "UnknownArgumentError",
    "WrongTypeError",
    "__version__",
    "get_last_checkpoint",
    "on_ray",
    "patch_transformers",
    "register_optimizer",
    "set_seed",
]

_HOMES = {
    "DefaultFlowCallback": "transformers.trainer_callback",
    "EarlyStoppingCallback": "transformers.trainer_callback",
    "EvalLoopOutput": "transformers.trainer_utils",
    "EvalPrediction": "transformers.trainer_utils",
    "HfArgumentParser": "raytrainer.arguments.parser",
    "IntervalStrategy": "transformers.trainer_utils",
    "PredictionOutput": "transformers.trainer_utils",
    "PrinterCallback": "transformers.trainer_callback",
    "ProgressCallback": "transformers.trainer_callback",
    "SFTConfig": "raytrainer.sft.config",
    "SFTTrainer": "raytrainer.sft.trainer",
    "SaveStrategy": "transformers.trainer_utils",
    "SchedulerType": "transformers.trainer_utils",
    "Seq2SeqTrainer": "raytrainer.seq2seq.trainer",
    "Seq2SeqTrainingArguments": "raytrainer.seq2seq.arguments",
    "TrainOutput": "transformers.trainer_utils",
    "Trainer": "raytrainer.trainer",
    "register_optimizer": "raytrainer.optim.catalogue",
    "TrainerCallback": "transformers.trainer_callback",
    "TrainerControl": "transformers.trainer_callback",
    "TrainerHooks": "raytrainer.hooks",
    "TrainerState": "transformers.trainer_callback",
    "TrainingArguments": "raytrainer.arguments.training_arguments",
    "get_last_checkpoint": "transformers.trainer_utils",
    "on_ray": "raytrainer.libraries.on_ray",
    "patch_transformers": "raytrainer.libraries.patch",
    "set_seed": "transformers.trainer_utils",
}
"""Public name -> the module that defines it."""

import_peft_on_use()
send_to_file()
keep_from_last_resort()


def __getattr__(name: str) -> object:
    """Import the home of a public name and keep the result, so that the next read is a plain one."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Every public name, resolved or not."""
    return sorted({*globals(), *__all__})
