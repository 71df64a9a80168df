"""Whether the value of one argument is valid by itself: its range, its choices.

Its type was checked before (``field_types``). What depends on another argument is in ``combinations``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from transformers.debug_utils import DebugOption
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames

from raytrainer.arguments.debugging import WORDS, words_of
from raytrainer.arguments.optimizer_names import OPTIMIZERS
from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import did_you_mean

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


_ENUMS: dict[str, type[Enum]] = {
    "eval_strategy": IntervalStrategy,
    "logging_strategy": IntervalStrategy,
    "save_strategy": SaveStrategy,
    "hub_strategy": HubStrategy,
    "lr_scheduler_type": SchedulerType,
    "optim": OptimizerNames,
}
_AT_LEAST: dict[str, float] = {
    "per_device_train_batch_size": 1,
    "rank_check_steps": 0,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "neftune_noise_alpha": 0,
    "weight_decay": 0,
    "adam_epsilon": 0,
    "max_grad_norm": 0,
    "warmup_steps": 0,
    "eval_delay": 0,
    "eval_accumulation_steps": 1,
    "torch_empty_cache_steps": 1,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "ddp_timeout": 1,
    "ddp_bucket_cap_mb": 1,
    "save_total_limit": 0,
    "seed": 0,
    "data_seed": 0,
    "logging_steps": 0,
    "save_steps": 0,
    "eval_steps": 0,
}
_BELOW_ONE = ("adam_beta1", "adam_beta2", "label_smoothing_factor")


def check_values(args: TrainingArguments) -> None:
    """Check every argument by itself.

    Raises:
        ConfigurationError: For the first invalid value.
    """
    for name, kind in _ENUMS.items():
        if name != "optim" or args.optim not in OPTIMIZERS:
            _check_choice(name, getattr(args, name), [member.value for member in kind])
    for field in fields(args):
        value = getattr(args, field.name)
        if "choices" in field.metadata and value is not None:
            _check_choice(field.name, value, list(field.metadata["choices"]))
    for name, minimum in _AT_LEAST.items():
        _check_number(name, getattr(args, name), minimum, None)
    for name in _BELOW_ONE:
        _check_number(name, getattr(args, name), 0, 1)
    _check_exit_code(args.sigterm_exit_code)
    _check_tokens_seen(args.include_num_input_tokens_seen)
    _check_debug(args.debug)
    _check_reporters(args.report_to)


def _check_choice(name: str, value: object, choices: list[Any]) -> None:
    plain = value.value if isinstance(value, Enum) else value
    if plain in choices:
        return
    hint = did_you_mean(str(plain), map(str, choices)) or " Use one of them."
    raise ConfigurationError(f"{name}={plain!r} is not one of {choices}.{hint}")


def _check_number(name: str, value: object, minimum: float, below: float | None) -> None:
    if value is None:
        return
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and value >= minimum
        and (below is None or value < below)
    ):
        return
    wanted = f"a number of {minimum:g} or more" + (f" and less than {below:g}" if below is not None else "")
    raise ConfigurationError(f"{name}={value!r} is not {wanted}. Change it, or leave it out for the default.")


def _check_exit_code(value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255):
        raise ConfigurationError(
            f"sigterm_exit_code={value!r} is not an exit status. Give a whole number from 0 to 255; None lets the "
            "script go on after SIGTERM."
        )


def _check_tokens_seen(value: object) -> None:
    if not isinstance(value, bool):
        _check_choice("include_num_input_tokens_seen", value, ["all", "non_padding", "no"])


def _check_debug(value: str | Sequence[object] | None) -> None:
    for word in words_of(value):
        _check_choice(
            "debug", word, [*WORDS, *(option.value for option in DebugOption if option.value not in WORDS)]
        )


def _check_reporters(value: str | Sequence[str] | None) -> None:
    names = [value] if isinstance(value, str) else value or []
    named = [name for name in names if name not in ("all", "none")]
    if not named:
        return
    from transformers.integrations import integration_utils

    known = cast("Mapping[str, object]", integration_utils.INTEGRATION_TO_CALLBACK)
    for name in named:
        _check_choice("report_to", name, sorted(known))
