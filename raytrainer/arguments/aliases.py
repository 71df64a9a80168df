"""Argument names of earlier versions of transformers and their current equivalents: the one alias table.

Each entry also translates the value. A name without an equivalent is accepted if ignoring it changes nothing, and
otherwise refused with the reason. One FutureWarning per name and process. This file never sets anything itself.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import transformers

from raytrainer.errors import ConfigurationError
from raytrainer.user_types import ProcessingClass

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments

_warned: set[str] = set()
_OURS = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(transformers.__file__))
"""Folders that a warning never points into: the line that used an old name is outside them."""


@dataclass(frozen=True)
class Alias:
    """A former name of an argument of ``TrainingArguments``."""

    name: str
    kind: type
    """The type that a command line parses its value as."""
    hint: str
    """What to write instead, the end of the warning."""
    translate: Callable[[Any], Mapping[str, Any]]
    """Value -> current fields; empty if the value changes nothing. Raises ConfigurationError to refuse it."""
    field: str | None = None
    """The field with the same meaning, if the argument was only renamed."""
    default: Any = None
    """What reading the old name returns if it was not set."""
    harmless: tuple[Any, ...] | None = None
    """The values that are accepted without effect; others are refused. None: every value is accepted."""
    refusal: str = ""
    """The error for other values, continuing "name=value "."""


def warn_once(name: str, hint: str) -> None:
    """Warn about an old name, once per process, pointing at the caller's own line."""
    if name in _warned:
        return
    _warned.add(name)
    warnings.warn(
        f"`{name}` is an argument name of an earlier version: {hint}.",
        FutureWarning,
        stacklevel=callers_level(),
    )


def callers_level() -> int:
    """The ``stacklevel`` with which a warning of our caller points at the user's own line."""
    level, frame = 1, sys._getframe(1)
    # "<string>": the __init__ that dataclasses generate
    while frame.f_back is not None and frame.f_code.co_filename.startswith((*_OURS, "<string>")):
        level, frame = level + 1, frame.f_back
    return level


def trainer_keyword(tokenizer: ProcessingClass | None, processing_class: ProcessingClass | None) -> Any:
    """Return the processing class of a Trainer that may have been given the former keyword ``tokenizer=``.

    Raises:
        ConfigurationError: If both were given and are not the same object.
    """
    if tokenizer is None:
        return processing_class
    warn_once("tokenizer", "pass `processing_class=` to the Trainer instead")
    if processing_class is not None and processing_class is not tokenizer:
        raise ConfigurationError(
            f"tokenizer= ({type(tokenizer).__name__}) and processing_class= "
            f"({type(processing_class).__name__}) were both given, but tokenizer is only the former name of "
            "processing_class. Pass only processing_class=."
        )
    return tokenizer


def read_legacy(args: TrainingArguments, name: str) -> Any:
    """Read the value of a former name.

    Raises:
        AttributeError: If no argument ever had this name.
    """
    alias = ALIASES.get(name)
    if alias is None:
        raise AttributeError(f"{type(args).__name__!r} object has no attribute {name!r}")
    if alias.field is not None:
        return getattr(args, alias.field)
    return args.__dict__.get("_legacy", {}).get(name, alias.default)


def _renamed(old: str, new: str, kind: type) -> Alias:
    return Alias(
        old, kind, f"write `{new}` instead", lambda value: {} if value is None else {new: value}, field=new
    )


def _switch(old: str, hint: str, **when_true: object) -> Alias:
    return Alias(old, bool, hint, lambda value: when_true if value else {}, default=False)


def _key_of(old: str, field: str, key: str, kind: type, nothing: tuple[Any, ...] = (None,)) -> Alias:
    hint = f"write `{field}={{{key!r}: ...}}` instead"
    return Alias(old, kind, hint, lambda value: {} if value in nothing else {field: {key: value}})


def _gone(
    old: str, kind: type, why: str, *, harmless: tuple[Any, ...] | None = None, do: str = "Leave it out."
) -> Alias:
    """A former name without an equivalent; ``harmless=None`` accepts every value."""
    refusal = f"is an argument of an earlier version, and {why}. {do}"

    def refuse_or_ignore(value: object) -> Mapping[str, Any]:
        if harmless is not None and value not in harmless:
            raise ConfigurationError(f"{old}={value!r} {refusal}")
        return {}

    default = harmless[0] if harmless else False if kind is bool else None
    hint = f"it has no effect, {why}"
    return Alias(
        old,
        kind,
        hint,
        refuse_or_ignore,
        default=default,
        harmless=harmless,
        refusal=refusal if harmless else "",
    )


def _warmup_ratio(value: Any) -> Mapping[str, Any]:
    ratio = float(value or 0)
    if not 0 <= ratio < 1:
        raise ConfigurationError(
            f"warmup_ratio={value!r} is not a fraction of the training steps: 0 or more and less than 1 was "
            "expected. For a number of steps, set warmup_steps instead."
        )
    return {"warmup_steps": ratio} if ratio else {}


_AMP = "mixed precision is torch's own"
_TABLE: tuple[Alias, ...] = (
    _renamed("evaluation_strategy", "eval_strategy", str),
    _renamed("per_gpu_train_batch_size", "per_device_train_batch_size", int),
    _renamed("per_gpu_eval_batch_size", "per_device_eval_batch_size", int),
    _renamed("push_to_hub_model_id", "hub_model_id", str),
    _renamed("push_to_hub_token", "hub_token", str),
    _renamed("torchdynamo", "torch_compile_backend", str),
    _renamed("xpu_backend", "ddp_backend", str),
    Alias(
        "warmup_ratio",
        float,
        "write `warmup_steps` instead, where a number below 1 is a ratio",
        _warmup_ratio,
        default=0.0,
    ),
    _switch("no_cuda", "write `use_cpu` instead", use_cpu=True),
    _switch(
        "group_by_length",
        "write `train_sampling_strategy='group_by_length'` instead",
        train_sampling_strategy="group_by_length",
    ),
    _switch("evaluate_during_training", "write `eval_strategy='steps'` instead", eval_strategy="steps"),
    _switch("adafactor", "write `optim='adafactor'` instead", optim="adafactor"),
    _switch(
        "include_tokens_per_second",
        "write `include_num_input_tokens_seen='all'` instead",
        include_num_input_tokens_seen="all",
    ),
    _switch(
        "include_inputs_for_metrics",
        "write `include_for_metrics=['inputs']` instead",
        include_for_metrics=["inputs"],
    ),
    _key_of("split_batches", "accelerator_config", "split_batches", bool),
    _key_of("dispatch_batches", "accelerator_config", "dispatch_batches", bool),
    _key_of("fsdp_min_num_params", "fsdp_config", "min_num_params", int, (None, 0)),
    _key_of("fsdp_transformer_layer_cls_to_wrap", "fsdp_config", "transformer_layer_cls_to_wrap", str),
    _gone(
        "overwrite_output_dir", bool, "a run never deletes the contents of output_dir, it adds checkpoints"
    ),
    _gone("use_mps_device", bool, "MPS is used where it is available"),
    _gone("fp16_opt_level", str, _AMP),
    _gone("fp16_backend", str, _AMP, harmless=("auto", "amp", "cuda_amp", "cpu_amp", None)),
    _gone("half_precision_backend", str, _AMP, harmless=("auto", "amp", "cuda_amp", "cpu_amp", None)),
    _gone(
        "save_safetensors",
        bool,
        "weights are always saved as safetensors",
        harmless=(True, None),
        do="Leave it out; other formats are pickles.",
    ),
    _gone("past_index", int, "models return no past states to feed back", harmless=(-1, None)),
    _gone("jit_mode_eval", bool, "models are not traced for evaluation", harmless=(False, None)),
    _gone("use_legacy_prediction_loop", bool, "there is one prediction loop", harmless=(False, None)),
    _gone("use_ipex", bool, "the Intel extension is not applied", harmless=(False, None)),
    _gone("tpu_num_cores", int, "workers train on CPUs and GPUs only", harmless=(None,)),
    _gone("tpu_metrics_debug", bool, "workers train on CPUs and GPUs only", harmless=(False, None)),
    _gone("mp_parameters", str, "SageMaker's model parallelism is not available", harmless=("", None)),
    _gone("sharded_ddp", str, "fairscale is not used", harmless=("", False, None)),
    _gone(
        "push_to_hub_organization",
        str,
        "the organization is part of the name",
        harmless=(None,),
        do="Write hub_model_id='organization/name'.",
    ),
    _gone(
        "ray_scope",
        str,
        "it concerns hyperparameter search",
        harmless=("last", None),
        do="Leave it out; pick the best trial from the results of the search.",
    ),
)

ALIASES: dict[str, Alias] = {alias.name: alias for alias in _TABLE}
"""Former name -> its entry. Not among them: ``gradient_checkpointing[_kwargs]``, which are still fields and of which
transformers itself warns, and ``logging_dir``, which is a field of this package."""
