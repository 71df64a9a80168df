"""Methods of ``transformers.Trainer`` that nothing calls here, and what a subclass overrides instead.

An override of one of them would be ignored without a word, so the subclass is warned when it is constructed. Names that
``transformers.Trainer`` does not have belong to the subclass alone. This file never calls a method.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raytrainer.arguments.aliases import callers_level
from raytrainer.dialects.accelerate_sharding import SHARDING_ARGUMENTS
from raytrainer.errors import ConfigurationError


@dataclass(frozen=True)
class NeverCalled:
    """Why a method is not called, and what to do instead."""

    why: str
    """A clause."""
    do: str
    """A sentence."""


_LOOP = "the training loop is raytrainer's own and is divided differently"
_ONE_COMMIT = "a checkpoint is written by all workers and committed once"
_READ = "a checkpoint is verified and loaded as a whole"
_PARALLEL = "tensor and context parallelism are not available"
_SEARCH = "hyperparameters are searched with Ray Tune, whose trials call `trainer.train()`"
_STEPS = (
    "Override `training_step` or `get_batch_samples`, or write a callback with on_step_begin and on_step_end."
)
_SAVE = "Override `_save_checkpoint` and call super, or write a callback with on_save."
_LOAD = "Write a callback with on_train_begin, which runs after the checkpoint was loaded."
_TUNE = "Call `trainer.train()` in the function that Ray Tune runs."
_NORM = "Write a callback with on_pre_optimizer_step, or set max_grad_norm."
_SHARDS = f"Set {' or '.join(SHARDING_ARGUMENTS)}, which shard the weights over the workers."
_BACKEND = f"Set ddp_*, {', '.join(SHARDING_ARGUMENTS)} or bf16 in TrainingArguments."

NEVER_CALLED: dict[str, NeverCalled] = {
    "_build_accelerator_args": NeverCalled("each backend builds its own Accelerator", _BACKEND),
    "create_accelerator_and_postprocess": NeverCalled(
        "the Accelerator is built on the workers when a task begins",
        f"Read `self.accelerator` in a hook. {_BACKEND}",
    ),
    "_clip_grad_norm": NeverCalled("the backend clips gradients", _NORM),
    "_get_grad_norm": NeverCalled("the backend computes the gradient norm", _NORM),
    "_mixed_mesh_grad_norm": NeverCalled(_PARALLEL, _NORM),
    "_has_mixed_mesh_grads": NeverCalled(_PARALLEL, _NORM),
    "_defer_fsdp_gradient_reduction": NeverCalled(
        "the backend reduces gradients at the last micro-batch of a step", "Leave it out."
    ),
    "_sync_replicated_trainable_parameters": NeverCalled(_PARALLEL, "Leave it out."),
    "_prepare_context_parallel_inputs": NeverCalled(_PARALLEL, "Override `_prepare_inputs`."),
    "_inner_training_loop": NeverCalled(_LOOP, _STEPS),
    "_run_epoch": NeverCalled(_LOOP, _STEPS),
    "_init_training_state": NeverCalled(_LOOP, _LOAD),
    "_prepare_for_training": NeverCalled(
        _LOOP, "Override `create_optimizer_and_scheduler`, or `train` and call super."
    ),
    "_finalize_training": NeverCalled(
        _LOOP, "Write a callback with on_train_end, or override `train` and call super."
    ),
    "_maybe_log_save_evaluate": NeverCalled(
        _LOOP, "Override `log`, `evaluate` or `_save_checkpoint`, or set control flags in a callback."
    ),
    "_track_num_input_tokens": NeverCalled(
        _LOOP, "Set include_num_input_tokens_seen, or override `training_step`."
    ),
    "_update_auto_batch_size": NeverCalled(
        "a batch size that does not fit is changed on all ranks at once",
        "Set auto_find_batch_size, or per_device_train_batch_size.",
    ),
    "set_initial_training_values": NeverCalled(
        "steps and epochs are counted in one place, before the run begins",
        "Set max_steps or num_train_epochs.",
    ),
    "get_total_train_batch_size": NeverCalled(
        "it reports the global batch size and decides nothing",
        "Set per_device_train_batch_size and gradient_accumulation_steps.",
    ),
    "get_tp_size": NeverCalled(_PARALLEL, _SHARDS),
    "get_cp_size": NeverCalled(_PARALLEL, _SHARDS),
    "get_sp_size": NeverCalled(_PARALLEL, _SHARDS),
    "_wrap_model": NeverCalled(
        "the backend wraps the model", "Change the model before you pass it, or in model_init=."
    ),
    "_move_model_to_device": NeverCalled(
        "a worker has one device, and the model is moved there", "Set use_cpu or use_gpu."
    ),
    "_get_output_dir": NeverCalled("a run has one directory", "Set output_dir."),
    "_save_rng_state": NeverCalled(_ONE_COMMIT, _SAVE),
    "_save_optimizer_and_scheduler": NeverCalled(_ONE_COMMIT, _SAVE),
    "_save_scaler": NeverCalled(_ONE_COMMIT, _SAVE),
    "_load_from_checkpoint": NeverCalled(_READ, _LOAD),
    "_load_optimizer_and_scheduler": NeverCalled(_READ, _LOAD),
    "_load_rng_state": NeverCalled(_READ, _LOAD),
    "_load_scaler": NeverCalled(_READ, _LOAD),
    "_load_callback_state": NeverCalled(
        _READ,
        "Derive the callback from ExportableState with a `state()`, and set restore_callback_states_from_checkpoint.",
    ),
    "_issue_warnings_after_load": NeverCalled(
        "weights that do not fit are an error", "Change the model, or load the weights before you pass it."
    ),
    "_validate_args": NeverCalled(
        "contradictory arguments are refused when the Trainer is constructed",
        "Check your own arguments in `__init__`.",
    ),
    "_hp_search_setup": NeverCalled(_SEARCH, _TUNE),
    "_report_to_hp_search": NeverCalled(_SEARCH, _TUNE),
    "_tune_save_checkpoint": NeverCalled(_SEARCH, _TUNE),
    "hyperparameter_search": NeverCalled(_SEARCH, _TUNE),
    "init_hf_repo": NeverCalled(
        "training creates the repository itself", "Set hub_model_id and hub_private_repo."
    ),
}
"""Method of ``transformers.Trainer`` that no code of this package calls -> why, and what to do instead."""

ONLY_FOR_USERS = frozenset(
    {
        "init_hf_repo",
        "set_initial_training_values",
        "get_total_train_batch_size",
        "get_tp_size",
        "get_cp_size",
        "get_sp_size",
    }
)
"""Those of them that work when a user calls them; only an override has no effect."""


def unsupported_method(name: str) -> Callable[..., Any]:
    """Make a method that raises an error which says why it is not available.

    Args:
        name: A key of ``NEVER_CALLED``.
    """
    entry = NEVER_CALLED[name]

    def method(self: Any, *args: object, **kwargs: object) -> Any:
        del self, args, kwargs
        raise ConfigurationError(
            f"`Trainer.{name}` is not available in this version of raytrainer: {entry.why}. {entry.do}"
        )

    method.__name__ = name
    method.__doc__ = f"Not available: {entry.why}. {entry.do}"
    return method


class UnsupportedMethods:
    """Public methods of ``transformers.Trainer`` that raise an explanation instead of an AttributeError."""

    hyperparameter_search = unsupported_method("hyperparameter_search")
    create_accelerator_and_postprocess = unsupported_method("create_accelerator_and_postprocess")


def is_implemented(base: type, name: str) -> bool:
    """Whether a Trainer of this package has a method that does something.

    Args:
        base: The Trainer.
        name: The method.
    """
    return getattr(base, name, None) is not getattr(UnsupportedMethods, name, None)


def overrides_never_called(cls: type, base: type) -> dict[str, type]:
    """Find the methods of ``transformers.Trainer`` that a subclass overrides and nothing calls.

    Args:
        cls: The user's class.
        base: The Trainer of this package.

    Returns:
        Name of the method -> the class that overrides it.
    """
    found: dict[str, type] = {}
    for kind in cls.__mro__:
        if kind in base.__mro__ or kind.__module__.partition(".")[0] == "raytrainer":
            continue
        for name in NEVER_CALLED.keys() & vars(kind).keys():
            if name in ONLY_FOR_USERS or not is_implemented(base, name):
                found.setdefault(name, kind)
    return found


def warn_of_overrides_never_called(cls: type, base: type) -> None:
    """Warn about the methods that a subclass overrides and nothing calls.

    Args:
        cls: The user's class.
        base: The Trainer of this package.
    """
    for name, kind in sorted(overrides_never_called(cls, base).items()):
        entry = NEVER_CALLED[name]
        warnings.warn(
            f"{kind.__qualname__}.{name} overrides a method of transformers.Trainer that raytrainer never calls: "
            f"{entry.why}. {entry.do}",
            UserWarning,
            stacklevel=callers_level(),
        )


def check_trial(trial: object) -> None:
    """Refuse a trial of a hyperparameter search.

    Raises:
        ConfigurationError: If there is one.
    """
    if trial is not None:
        raise ConfigurationError(
            f"train() got a trial ({type(trial).__name__}), but {_SEARCH}. Set the trial's hyperparameters in "
            "TrainingArguments, and leave trial= out."
        )
