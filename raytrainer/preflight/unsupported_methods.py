"""Methods of ``transformers.Trainer`` that nothing calls here, and what a subclass overrides instead.

An override of one of them would be ignored, and something else would be computed, so the subclass is refused when it is
constructed. Names that ``transformers.Trainer`` does not have belong to the subclass alone. This file never calls a
method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

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
_PARALLEL = "tensor and context parallelism are not available"
_SEARCH = "hyperparameters are searched with Ray Tune, whose trials call `trainer.train()`"
_STEPS = (
    "Override `training_step` or `get_batch_samples`, or write a callback with on_step_begin and on_step_end."
)
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
    "_inner_training_loop": NeverCalled(
        _LOOP, f"{_STEPS} A trainer whose loop is its own runs on Ray workers with `raytrainer.on_ray`."
    ),
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
    "_issue_warnings_after_load": NeverCalled(
        "weights that do not fit are an error", "Change the model, or load the weights before you pass it."
    ),
    "_tune_save_checkpoint": NeverCalled(_SEARCH, _TUNE),
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
"""Those of them that work when a user calls them; only an override is refused."""

CALLED_BY_THEIR_AUTHOR = frozenset({"hyperparameter_search"})
"""Those of them that ``transformers`` never calls either: an override is a method of the user's own."""


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
    """Methods of ``transformers.Trainer`` that raise an explanation instead of an AttributeError."""


for _name in NEVER_CALLED.keys() - ONLY_FOR_USERS:
    setattr(UnsupportedMethods, _name, unsupported_method(_name))


def is_implemented(base: type, name: str) -> bool:
    """Whether a Trainer of this package has a method that does something.

    Args:
        base: The Trainer.
        name: The method.
    """
    return getattr(base, name, None) is not getattr(UnsupportedMethods, name, None)


def check_overrides(cls: type, base: type) -> None:
    """Refuse a subclass that overrides a method of ``transformers.Trainer`` which nothing here calls.

    Its override would be ignored, and the run would compute something else than its author meant.

    Args:
        cls: The user's class.
        base: The Trainer of this package.

    Raises:
        ConfigurationError: If there is such an override; names the class that has it, and what to do instead.
    """
    for kind in cls.__mro__:
        if kind in base.__mro__ or kind.__module__.partition(".")[0] == "raytrainer":
            continue
        for name in sorted((NEVER_CALLED.keys() - CALLED_BY_THEIR_AUTHOR) & vars(kind).keys()):
            entry = NEVER_CALLED[name]
            raise ConfigurationError(
                f"{kind.__qualname__}.{name} overrides a method of transformers.Trainer that raytrainer never calls, "
                f"so it would have no effect: {entry.why}. {entry.do}"
            )


def check_trial(trial: object) -> dict[str, Any] | None:
    """Return the hyperparameters of a trial, or None.

    Raises:
        ConfigurationError: If it is not a dict.
    """
    if trial is None or isinstance(trial, dict):
        return cast("dict[str, Any] | None", trial)
    raise ConfigurationError(
        f"train() got a trial that is a {type(trial).__name__}; a dict of hyperparameters was expected, because "
        f"{_SEARCH}. Set its hyperparameters in TrainingArguments, and pass trial=None or a dict, such as trial.params."
    )
