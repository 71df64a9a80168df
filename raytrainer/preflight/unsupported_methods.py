"""Methods of ``transformers.Trainer`` that nothing calls here, and what a subclass overrides instead.

A subclass that overrides one of them would be ignored without a word, so it is warned when it is constructed. Names
that ``transformers.Trainer`` does not have are the subclass's own, and nobody's business. This file never calls a
method.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raytrainer.arguments.aliases import callers_level
from raytrainer.errors import ConfigurationError


@dataclass(frozen=True)
class Unheard:
    """Why a method is not called, and what to do instead."""

    why: str
    """A clause."""
    do: str
    """A sentence."""


_LOOP = "the loop is raytrainer's own, in other pieces"
_ONE_COMMIT = "a checkpoint is written by all workers and committed once"
_READ = "a run goes on from a checkpoint that was checked as a whole"
_PARALLEL = "tensor and context parallelism are not available"
_SEARCH = "a search is a matter of Ray Tune, whose trials call `trainer.train()`"
_STEPS = (
    "Override `training_step` or `get_batch_samples`, or write a callback with on_step_begin and on_step_end."
)
_SAVE = "Override `_save_checkpoint` and call super, or write a callback with on_save."
_LOAD = "Write a callback with on_train_begin, which comes after the checkpoint was read."
_TUNE = "Call `trainer.train()` in the function that Ray Tune runs."
_NORM = "Write a callback with on_pre_optimizer_step, or set max_grad_norm."
_SHARDS = "Set fsdp or deepspeed, which share the weights out over the workers."

UNHEARD: dict[str, Unheard] = {
    "_build_accelerator_args": Unheard(
        "each backend makes its own Accelerator", "Set ddp_*, fsdp, deepspeed or bf16 in TrainingArguments."
    ),
    "create_accelerator_and_postprocess": Unheard(
        "the Accelerator is made on the workers, when a task begins",
        "Read `self.accelerator` in a hook, or set ddp_*, fsdp, deepspeed or bf16 in TrainingArguments.",
    ),
    "_clip_grad_norm": Unheard("the backend clips", _NORM),
    "_get_grad_norm": Unheard("the backend takes the norm", _NORM),
    "_mixed_mesh_grad_norm": Unheard(_PARALLEL, _NORM),
    "_has_mixed_mesh_grads": Unheard(_PARALLEL, _NORM),
    "_defer_fsdp_gradient_reduction": Unheard(
        "the backend reduces gradients at the last micro-batch of a step", "Leave it out."
    ),
    "_sync_replicated_trainable_parameters": Unheard(_PARALLEL, "Leave it out."),
    "_prepare_context_parallel_inputs": Unheard(_PARALLEL, "Override `_prepare_inputs`."),
    "_inner_training_loop": Unheard(_LOOP, _STEPS),
    "_run_epoch": Unheard(_LOOP, _STEPS),
    "_init_training_state": Unheard(_LOOP, _LOAD),
    "_prepare_for_training": Unheard(
        _LOOP, "Override `create_optimizer_and_scheduler`, or `train` and call super."
    ),
    "_finalize_training": Unheard(
        _LOOP, "Write a callback with on_train_end, or override `train` and call super."
    ),
    "_maybe_log_save_evaluate": Unheard(
        _LOOP, "Override `log`, `evaluate` or `_save_checkpoint`, or set control flags in a callback."
    ),
    "_track_num_input_tokens": Unheard(
        _LOOP, "Set include_num_input_tokens_seen, or override `training_step`."
    ),
    "_update_auto_batch_size": Unheard(
        "sizes that do not fit are changed over all ranks at once",
        "Set auto_find_batch_size, or per_device_train_batch_size.",
    ),
    "set_initial_training_values": Unheard(
        "steps and epochs are counted in one place, before the run begins",
        "Set max_steps or num_train_epochs.",
    ),
    "get_total_train_batch_size": Unheard(
        "it tells the global batch, and decides nothing",
        "Set per_device_train_batch_size and gradient_accumulation_steps.",
    ),
    "get_tp_size": Unheard(_PARALLEL, _SHARDS),
    "get_cp_size": Unheard(_PARALLEL, _SHARDS),
    "get_sp_size": Unheard(_PARALLEL, _SHARDS),
    "get_optimizer_cls_and_kwargs": Unheard(
        "it tells what `optim` names, and the optimizer is built from the catalogue",
        "Override `create_optimizer`, or pass optimizer_cls_and_kwargs=.",
    ),
    "_wrap_model": Unheard("the backend wraps", "Change the model before you pass it, or in model_init=."),
    "_move_model_to_device": Unheard(
        "a worker has one device, and its model is moved there", "Set use_cpu or use_gpu."
    ),
    "_get_output_dir": Unheard("a run has one directory", "Set output_dir."),
    "_save_rng_state": Unheard(_ONE_COMMIT, _SAVE),
    "_save_optimizer_and_scheduler": Unheard(_ONE_COMMIT, _SAVE),
    "_save_scaler": Unheard(_ONE_COMMIT, _SAVE),
    "_load_from_checkpoint": Unheard(_READ, _LOAD),
    "_load_optimizer_and_scheduler": Unheard(_READ, _LOAD),
    "_load_rng_state": Unheard(_READ, _LOAD),
    "_load_scaler": Unheard(_READ, _LOAD),
    "_load_callback_state": Unheard(
        _READ,
        "Give the callback a `state()`, as ExportableState, and set restore_callback_states_from_checkpoint.",
    ),
    "_issue_warnings_after_load": Unheard(
        "weights that do not fit are an error", "Change the model, or load the weights before you pass it."
    ),
    "_validate_args": Unheard(
        "contradictions are refused when the Trainer is constructed",
        "Check your own arguments in `__init__`.",
    ),
    "_hp_search_setup": Unheard(_SEARCH, _TUNE),
    "_report_to_hp_search": Unheard(_SEARCH, _TUNE),
    "_tune_save_checkpoint": Unheard(_SEARCH, _TUNE),
    "hyperparameter_search": Unheard(_SEARCH, _TUNE),
    "init_hf_repo": Unheard(
        "training opens the repository by itself", "Set hub_model_id and hub_private_repo."
    ),
}
"""Methods of ``transformers.Trainer`` that no code of this package calls."""

ANSWERED = frozenset(
    {
        "init_hf_repo",
        "set_initial_training_values",
        "get_total_train_batch_size",
        "get_tp_size",
        "get_cp_size",
        "get_sp_size",
        "get_optimizer_cls_and_kwargs",
    }
)
"""Those among them that answer a user who calls them."""


def is_there(base: type, name: str) -> bool:
    """Whether the Trainer of this package has a method that does something."""
    return hasattr(base, name) and not getattr(getattr(base, name), "_is_refused", False)


def unheard_in(cls: type, base: type) -> dict[str, type]:
    """The methods of ``transformers.Trainer`` that a subclass overrides in vain, with the class that does.

    Args:
        cls: The user's class.
        base: The Trainer of this package.
    """
    found: dict[str, type] = {}
    for kind in cls.__mro__:
        if kind in base.__mro__ or kind.__module__.partition(".")[0] == "raytrainer":
            continue
        for name in UNHEARD.keys() & vars(kind).keys():
            if name in ANSWERED or not is_there(base, name):
                found.setdefault(name, kind)
    return found


def warn_of_unheard(cls: type, base: type) -> None:
    """Warn about methods that a subclass overrides and nothing calls."""
    for name, kind in sorted(unheard_in(cls, base).items()):
        unheard = UNHEARD[name]
        warnings.warn(
            f"{kind.__qualname__}.{name} overrides a method of transformers.Trainer that raytrainer never calls: "
            f"{unheard.why}. {unheard.do}",
            UserWarning,
            stacklevel=callers_level(),
        )


def refused_method(name: str) -> Callable[..., Any]:
    """Make a method that says why it is not available.

    Args:
        name: A key of ``UNHEARD``.
    """
    unheard = UNHEARD[name]

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        del self, args, kwargs
        raise ConfigurationError(
            f"`Trainer.{name}` is not available in this version of raytrainer: {unheard.why}. {unheard.do}"
        )

    method.__name__ = name
    method.__doc__ = f"Not available: {unheard.why}. {unheard.do}"
    method._is_refused = True  # type: ignore[attr-defined]
    return method


class RefusedMethods:
    """Public methods of ``transformers.Trainer`` that end with a sentence instead of an AttributeError."""

    hyperparameter_search = refused_method("hyperparameter_search")
    create_accelerator_and_postprocess = refused_method("create_accelerator_and_postprocess")


def check_trial(trial: Any) -> None:
    """Refuse a trial of a search.

    Raises:
        ConfigurationError: If there is one.
    """
    if trial is not None:
        raise ConfigurationError(
            f"train() got a trial ({type(trial).__name__}), and {_SEARCH}. Set the arguments of the trial in "
            "TrainingArguments, and leave trial= out."
        )
