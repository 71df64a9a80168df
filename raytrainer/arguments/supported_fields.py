"""Which arguments are supported, and which are refused with a reason when they are set.

One table for all fields, so that no argument is accepted and then ignored. A refused field may keep its default; a
test compares the table with the fields of ``TrainingArguments``. This file never changes an argument.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from raytrainer.arguments.debugging import WORDS, words_of
from raytrainer.dialects.accelerate_sharding import SHARDING_ARGUMENTS
from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


_NOTHING: tuple[Any, ...] = (None, False, "", [], {})


@dataclass(frozen=True)
class Supported:
    """Every value of the field takes effect."""


@dataclass(frozen=True)
class Refusal:
    """Some values of the field are not supported in this version."""

    why: str
    """The reason, continuing "not available in this version of raytrainer: "."""
    do: str
    """What to do instead, as a sentence."""
    allowed: Collection[Any] = _NOTHING
    """Values that change nothing, or that are supported."""
    words: bool = False
    """The value may be several of those, as text or as a list."""

    def allows(self, value: object) -> bool:
        """Whether a value is not refused."""
        plain = value.value if isinstance(value, Enum) else value
        if self.words and plain:
            return all(word in self.allowed for word in words_of(cast("str | Sequence[object]", plain)))
        return any(plain == harmless for harmless in self.allowed)


SUPPORTED: tuple[str, ...] = (
    # duration and batch
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "num_train_epochs",
    "max_steps",
    "gradient_accumulation_steps",
    "auto_find_batch_size",
    # data
    "dataloader_drop_last",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "dataloader_in_order",
    "remove_unused_columns",
    "label_names",
    "length_column_name",
    "train_sampling_strategy",
    # optimization: the catalog decides which names `optim` may have
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "optim_args",
    "optim_target_modules",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "label_smoothing_factor",
    "average_tokens_across_devices",
    "neftune_noise_alpha",
    # precision and memory
    "bf16",
    "fp16",
    "bf16_full_eval",
    "fp16_full_eval",
    "tf32",
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "use_liger_kernel",
    "liger_kernel_config",
    "use_cache",
    "torch_empty_cache_steps",
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    # logging
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "log_on_each_node",
    "logging_nan_inf_filter",
    "logging_dir",
    "include_num_input_tokens_seen",
    "log_level",
    "log_level_replica",
    "disable_tqdm",
    "report_to",
    "run_name",
    "project",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    # evaluation
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "eval_on_start",
    "eval_do_concat_batches",
    "eval_use_gather_object",
    "eval_accumulation_steps",
    "prediction_loss_only",
    "include_for_metrics",
    "batch_eval_metrics",
    # checkpoints
    "output_dir",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_only_model",
    "enable_jit_checkpoint",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "resume_from_checkpoint",
    "ignore_data_skip",
    "restore_callback_states_from_checkpoint",
    # the Hub
    "push_to_hub",
    "hub_token",
    "hub_private_repo",
    "hub_model_id",
    "hub_strategy",
    "hub_always_push",
    "hub_revision",
    # distribution: `local_rank` is accepted from launchers, but the runtime decides it
    "use_cpu",
    "local_rank",
    "ddp_timeout",
    "ddp_find_unused_parameters",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_static_graph",
    *SHARDING_ARGUMENTS,
    "fsdp_config",
    # reproducibility, measurement, flags for scripts
    "seed",
    "data_seed",
    "full_determinism",
    "skip_memory_metrics",
    "do_train",
    "do_eval",
    "do_predict",
    # Ray
    "num_workers",
    "use_gpu",
    "resources_per_worker",
    "placement_strategy",
    "accelerator_type",
    "label_selector",
    "max_failures",
    "ray_address",
    "worker_idle_timeout_s",
    "cluster_timeout_s",
    "placement_timeout_s",
    "sigterm_exit_code",
    "elastic_timeout_s",
    "hang_warning_s",
    "hang_timeout_s",
    "fork_workers",
    "accelerate_config",
    "accelerator_config",
    "async_save",
    "async_save_overlap",
    "rank_check_steps",
    "report_page",
)
"""Fields that take effect whatever their value; invalid values are refused in ``values``."""


REFUSED: dict[str, Refusal] = {
    "parallelism_config": Refusal(
        "tensor and context parallelism are untested: on CPU Accelerate does not accept a ParallelismConfig, and torch "
        "has no kernel for context parallel attention",
        "Leave it out. fsdp=True shards over all workers (dp_shard_size), and fsdp='hybrid_shard' with "
        "hybrid_shard_size in groups of them (dp_replicate_size).",
    ),
    "ddp_backend": Refusal(
        "gradients are reduced by NCCL on GPUs and by gloo on CPUs",
        "Leave it out, or use 'nccl' or 'gloo'.",
        allowed=(None, "nccl", "gloo"),
    ),
    "save_on_each_node": Refusal(
        "a checkpoint is one directory that all workers share, committed once", "Leave it out."
    ),
    "debug": Refusal(
        "the debug options are 'underflow_overflow', 'sample_ledger' and 'startup'",
        "Use one of them, or several as 'underflow_overflow sample_ledger', or leave it out.",
        allowed=(*_NOTHING, *WORDS),
        words=True,
    ),
}
"""Fields with refused values."""

FIELDS: dict[str, Supported | Refusal] = {**dict.fromkeys(SUPPORTED, Supported()), **REFUSED}
"""Every field of ``TrainingArguments``."""


def check_supported(args: TrainingArguments) -> None:
    """Refuse arguments that this version does not support.

    Args:
        args: Training arguments, before or after normalization. Fields of subclasses are not checked.

    Raises:
        ConfigurationError: For the first refused value.
    """
    for field in fields(args):
        rule = FIELDS.get(field.name)
        value = getattr(args, field.name)
        if not isinstance(rule, Refusal) or rule.allows(value):
            continue
        found = "a token" if field.name.endswith("_token") else repr(value)
        raise ConfigurationError(
            f"`{field.name}` is not available in this version of raytrainer: {rule.why} (found "
            f"{found}). {rule.do}"
        )
