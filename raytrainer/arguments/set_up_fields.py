"""Which arguments count only where a trainer is set up: a trainer that is set up already must be set up again."""

from __future__ import annotations

from collections.abc import Collection

from raytrainer.dialects.accelerate_sharding import SHARDING_FIELDS
from raytrainer.errors import ConfigurationError

_WORKERS = (
    "num_workers resources_per_worker placement_strategy accelerator_type label_selector max_failures ray_address "
    "worker_idle_timeout_s elastic_timeout_s fork_workers"
)
_DEVICE = "use_gpu use_cpu full_determinism"
_BACKEND = (
    "bf16 fp16 mixed_precision accelerate_config parallelism_config ddp_backend ddp_timeout "
    "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph"
)
_LABELS = "label_names label_smoothing_factor"
_MODEL = (
    "use_cache use_liger_kernel liger_kernel_config torch_compile torch_compile_backend torch_compile_mode"
)
_CHECKPOINTING = (
    "activation_checkpointing activation_checkpointing_kwargs "
    "gradient_checkpointing gradient_checkpointing_kwargs"
)
_LOG = "log_level log_level_replica"
_MEMORY = "skip_memory_metrics"

SET_UP_FIELDS = frozenset(
    (
        *SHARDING_FIELDS,
        *f"{_WORKERS} {_DEVICE} {_BACKEND} {_LABELS} {_MODEL} {_CHECKPOINTING} {_LOG} {_MEMORY}".split(),
    )
)
"""Fields, and attributes that are derived from them, that nothing reads after that."""

_DERIVED = {
    "bf16": "mixed_precision",
    "fp16": "mixed_precision",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Field -> what was derived from it when the arguments were made."""


def check_derived(changed: Collection[str]) -> None:
    """Refuse a change of a field that decides nothing any more, because it was read when the arguments were made.

    Args:
        changed: Fields and derived attributes that have changed.

    Raises:
        ConfigurationError: If there is one.
    """
    for name, derived in _DERIVED.items():
        if name in changed and derived not in changed:
            raise ConfigurationError(
                f"args.{name} was changed after the arguments were made, which would have no effect: {derived} was "
                f"derived from it then. Make new arguments: trainer.args = dataclasses.replace(trainer.args, "
                f"{name}=...)."
            )


def check_in_process(changed: Collection[str], *, checkpoints: bool, builds_model: bool) -> None:
    """Refuse changes that would have no effect on a trainer that is set up in this process.

    Args:
        changed: Fields and derived attributes that have changed since it was set up.
        checkpoints: ``activation_checkpointing`` is on: each ``train()`` turns it on, and none turns it off.
        builds_model: Each ``train()`` builds a model as the arguments ask for.

    Raises:
        ConfigurationError: If there is one.
    """
    counts = {*_WORKERS.split(), *_LOG.split(), "activation_checkpointing_kwargs"}
    if builds_model:
        counts |= {*_MODEL.split(), *_CHECKPOINTING.split()}
    if checkpoints:
        counts.add("activation_checkpointing")
    for name, derived in _DERIVED.items():
        if name in changed and derived in changed:  # new arguments: one name for both
            counts.add(derived if derived == "mixed_precision" else name)
    ignored = sorted(SET_UP_FIELDS.intersection(changed) - counts)
    if ignored:
        names = ", ".join(f"args.{name}" for name in ignored)
        raise ConfigurationError(
            f"{names} changed after this trainer was set up in this process, which decided device, precision, wrapping "
            "and model, so the change would have no effect. Make a new Trainer with the new arguments; "
            "model=trainer.model gives it the weights."
        )
