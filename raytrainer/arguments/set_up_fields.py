"""Which arguments count only where a trainer is set up: a trainer that is set up already must be set up again."""

from __future__ import annotations

from collections.abc import Collection

from raytrainer.dialects.accelerate_sharding import SHARDING_FIELDS
from raytrainer.errors import ConfigurationError

_PLACEMENT = (
    "num_workers use_gpu use_cpu resources_per_worker placement_strategy accelerator_type label_selector max_failures "
    "ray_address worker_idle_timeout_s full_determinism"
)
_BACKEND = (
    "bf16 fp16 mixed_precision accelerate_config parallelism_config ddp_backend ddp_timeout "
    "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph"
)
_MODEL = (
    "label_names label_smoothing_factor use_cache use_liger_kernel liger_kernel_config torch_compile "
    "torch_compile_backend torch_compile_mode gradient_checkpointing gradient_checkpointing_kwargs "
    "activation_checkpointing activation_checkpointing_kwargs"
)
_PROCESS = "log_level log_level_replica skip_memory_metrics"

SET_UP_FIELDS = frozenset((*SHARDING_FIELDS, *f"{_PLACEMENT} {_BACKEND} {_MODEL} {_PROCESS}".split()))
"""Fields, and attributes that are derived from them, that nothing reads after that."""

_DERIVED = {"bf16": "mixed_precision", "fp16": "mixed_precision"}
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
