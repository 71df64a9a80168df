"""What ``deepspeed`` asks for: reads and checks DeepSpeed's JSON before there are workers.

DeepSpeed ignores most keys that it does not know, and without a stage it trains plain data parallel. Here a key is
supported, refused with a reason, or an error. "auto" is filled in by ``deepspeed_auto``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol, cast

from raytrainer.dialects.json_values import line_of, read_object
from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import did_you_mean

_SECTIONS: dict[str, tuple[str, ...]] = {
    "zero_optimization": (
        "stage",
        "contiguous_gradients",
        "reduce_scatter",
        "reduce_bucket_size",
        "use_multi_rank_bucket_allreduce",
        "allgather_partitions",
        "allgather_bucket_size",
        "overlap_comm",
        "load_from_fp32_weights",
        "elastic_checkpoint",
        "offload_param",
        "offload_optimizer",
        "sub_group_size",
        "stage3_prefetch_bucket_size",
        "stage3_param_persistence_threshold",
        "stage3_model_persistence_threshold",
        "stage3_max_live_parameters",
        "stage3_max_reuse_distance",
        "stage3_gather_16bit_weights_on_model_save",
        "stage3_gather_fp16_weights_on_model_save",
        "stage3_module_granularity_threshold",
        "stage3_use_all_reduce_for_fetch_params",
        "stage3_allgather_sequential",
        "ignore_unused_parameters",
        "legacy_stage1",
        "round_robin_gradients",
        "parameter_alignment",
        "memory_efficient_linear",
        "override_module_apply",
        "log_trace_cache_warnings",
        "enable_sanity_checks",
    ),
    "bf16": ("enabled", "immediate_grad_update", "check_grad_overflow"),
    "fp16": (
        "enabled",
        "auto_cast",
        "loss_scale",
        "initial_scale_power",
        "loss_scale_window",
        "hysteresis",
        "consecutive_hysteresis",
        "min_loss_scale",
    ),
    "optimizer": ("type", "params"),
    "scheduler": ("type", "params"),
    "data_types": ("grad_accum_dtype",),
}
_OFFLOADS = {
    "offload_optimizer": (
        "device",
        "pin_memory",
        "buffer_count",
        "fast_init",
        "pipeline_read",
        "pipeline_write",
        "ratio",
    ),
    "offload_param": ("device", "pin_memory", "buffer_count", "buffer_size", "max_in_cpu"),
}
_TOP = (
    *_SECTIONS,
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "steps_per_print",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
    "communication_data_type",
    "prescale_gradients",
    "gradient_predivide_factor",
    "flops_profiler",
    "comms_logger",
    "tensorboard",
    "wandb",
    "csv_monitor",
    "comet",
)
_REFUSED = {
    "amp": "use bf16=True or fp16=True in TrainingArguments",
    "torch_autocast": "use bf16=True or fp16=True in TrainingArguments",
    "activation_checkpointing": "it affects only models that call DeepSpeed's own functions; set "
    "activation_checkpointing=True in TrainingArguments",
    "elasticity": "the number of workers is fixed: set num_workers",
    "autotuning": "search over the values with Ray Tune",
    "checkpoint": "checkpoints are raytrainer's own: sharded, committed, and loaded on any number of workers",
    "managed_gradient_accumulation": "the training loop decides when a step ends",
    "nebula": "checkpoints are raytrainer's own",
    "pipeline": "pipeline parallelism is not available",
    "tensor_parallel": "tensor parallelism is not available",
    "sequence_parallel_size": "sequence parallelism is not available",
    "sparse_attention": "choose the model's attn_implementation",
    "sparse_gradients": "it is not tested here",
    "curriculum_learning": "sort the dataset yourself, with train_sampling_strategy='sequential'",
    "data_efficiency": "sort the dataset yourself, with train_sampling_strategy='sequential'",
    "compression_training": "it is not tested here",
    "progressive_layer_drop": "it is not tested here",
    "eigenvalue": "it is not tested here",
    "hybrid_engine": "it is not tested here",
    "compile": "DeepSpeed does not compile models here",
    "zenflow": "it is not tested here",
    "zero_hpz_partition_size": "it is not tested here; parameters are partitioned over all workers",
    "zero_quantized_weights": "it is not tested here",
    "zero_quantized_nontrainable_weights": "it is not tested here",
    "zero_quantized_gradients": "it is not tested here",
    "mics_shard_size": "it is not tested here; fsdp='hybrid_shard' shards inside groups of workers",
    "mics_hierarchical_params_gather": "it is not tested here; fsdp='hybrid_shard' shards inside groups of workers",
    "cpu_offload": "its current name is offload_optimizer={'device': 'cpu'}",
    "cpu_offload_params": "its current name is offload_param={'device': 'cpu'}",
    "cpu_offload_use_pin_memory": "its current name is pin_memory, in offload_optimizer and offload_param",
    "bf16_master_weights_and_grads": "master weights are fp32",
    "bf16_optimizer_states": "the optimizer decides the dtype of its state",
    "fp16_master_weights_and_grads": "master weights are fp32",
    "param_dtype": "the precision comes from bf16 and fp16",
    "buffer_dtype": "the precision comes from bf16 and fp16",
    "nvme_path": "offloading to NVMe is not tested here; use device='cpu'",
    "super_offload": "it is not tested here",
    "compute_grad_norm": "the norm is always computed and logged",
}
"""Keys of DeepSpeed that are not available unless they are off -> the reason, or what to use instead."""
OPTIMIZERS = ("Adam", "AdamW", "Adagrad", "Lion", "SGD")
SCHEDULERS = ("WarmupLR", "WarmupDecayLR", "WarmupCosineLR", "OneCycle", "LRRangeTest")
_AUTO = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "bf16.enabled",
    "fp16.enabled",
    "optimizer.params.lr",
    "optimizer.params.betas",
    "optimizer.params.eps",
    "optimizer.params.weight_decay",
    "scheduler.params.warmup_min_lr",
    "scheduler.params.warmup_max_lr",
    "scheduler.params.warmup_num_steps",
    "scheduler.params.total_num_steps",
    "zero_optimization.reduce_bucket_size",
    "zero_optimization.stage3_prefetch_bucket_size",
    "zero_optimization.stage3_param_persistence_threshold",
)
"""Where "auto" is allowed: every value that follows from the arguments or the model's hidden size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepSpeedOptions:
    """A checked DeepSpeed config."""

    config: dict[str, Any]
    """DeepSpeed's JSON; may still contain "auto"."""
    source: ClassVar[str] = "deepspeed"
    """The argument that holds the config."""

    @property
    def stage(self) -> int:
        """1: optimizer state is sharded; 2: gradients too; 3: parameters too."""
        return self.config["zero_optimization"]["stage"]

    @property
    def optimizer(self) -> dict[str, Any] | None:
        """``{"type": ..., "params": {...}}`` if DeepSpeed's JSON chooses the optimizer."""
        return self.config.get("optimizer")

    @property
    def scheduler(self) -> dict[str, Any] | None:
        """The same for the learning rate schedule."""
        return self.config.get("scheduler")

    def offloads(self, what: str) -> bool:
        """Whether ``"optimizer"`` (its state) or ``"param"`` (parameters) are kept in CPU memory."""
        offload: dict[str, Any] = self.config["zero_optimization"].get(f"offload_{what}") or {}
        return offload.get("device") == "cpu"


class Refuse(Protocol):
    """Raises the error about a key, with the file and line where it is."""

    def __call__(self, key: str, message: str) -> NoReturn: ...


def read_deepspeed(value: object) -> DeepSpeedOptions | None:
    """Read the argument ``deepspeed``; None if nothing was given.

    Args:
        value: A dict in DeepSpeed's form, the path of a JSON file, or None.

    Raises:
        ConfigurationError: For a key, stage or type that does not exist or is not available (with file and line), or
            "auto" where no value follows from anything.
    """
    if value in (None, False, "", {}):
        return None
    config = copy.deepcopy(read_object(value, "deepspeed"))
    if "bfloat16" in config:  # DeepSpeed's older name
        config["bf16"] = config.pop("bfloat16")

    def refuse(key: str, message: str) -> NoReturn:
        raise ConfigurationError(f"{line_of(value, key.rpartition('.')[2])}deepspeed {key}: {message}")

    _check_keys(config, _TOP, "", refuse)
    for section, keys in _SECTIONS.items():
        if section in config:
            _check_section(config[section], section, keys, refuse)
    _check_stage(config, refuse)
    _check_zero(config["zero_optimization"], refuse)
    for section, types in (("optimizer", OPTIMIZERS), ("scheduler", SCHEDULERS)):
        if section in config:
            _check_type(config[section], section, types, refuse)
    _check_auto(config, refuse)
    if config.get("data_types", {}).get("grad_accum_dtype") == "fp32" and _stage(config) == 1:
        refuse(
            "data_types.grad_accum_dtype",
            "with stage 1 DeepSpeed uses another optimizer for it, which is not tested here. Use stage 2.",
        )
    return DeepSpeedOptions(config=config)


def _check_section(section: object, path: str, keys: tuple[str, ...], refuse: Refuse) -> None:
    if not isinstance(section, dict):
        refuse(path, f"is {section!r}; an object was expected.")
    _check_keys(cast("dict[str, Any]", section), keys, f"{path}.", refuse)


def _check_keys(config: dict[str, Any], known: tuple[str, ...], prefix: str, refuse: Refuse) -> None:
    for key, value in config.items():
        if key in known:
            continue
        if key in _REFUSED:
            if not _is_off(value):
                refuse(f"{prefix}{key}", f"is not available: {_REFUSED[key]}. Leave it out.")
            continue
        hint = did_you_mean(key, known)
        refuse(f"{prefix}{key}", f"is not a key of DeepSpeed's config.{hint} Known keys: {', '.join(known)}.")
    for key in [key for key in config if key not in known]:
        del config[key]


def _is_off(value: object) -> bool:
    if isinstance(value, dict) and "enabled" in value:
        return not cast("dict[str, Any]", value)["enabled"]
    return value in (None, False, "", {}) or (
        value == 1 and value is not True
    )  # a size of 1 partitions nothing


def _stage(config: dict[str, Any]) -> Any:
    zero: dict[str, Any] = config.get("zero_optimization") or {}
    return zero.get("stage")


def _check_stage(config: dict[str, Any], refuse: Refuse) -> None:
    stage = _stage(config)
    if isinstance(stage, str) and stage.isdigit():
        config["zero_optimization"]["stage"] = stage = int(stage)
    if isinstance(stage, bool) or stage not in (1, 2, 3):
        why = (
            "shards nothing, so this would be plain data parallel; leave deepspeed out for that"
            if stage in (0, None)
            else "does not exist"
        )
        refuse(
            "zero_optimization.stage",
            f"stage {stage!r} {why}. Stages: 1 (optimizer state is sharded), 2 (gradients too), 3 (parameters too).",
        )


def _check_zero(zero: dict[str, Any], refuse: Refuse) -> None:
    for name, keys in _OFFLOADS.items():
        offload = zero.get(name)
        if offload is None:
            continue
        _check_section(offload, f"zero_optimization.{name}", keys, refuse)
        device = offload.get("device", "none")
        if device == "nvme":
            refuse(f"zero_optimization.{name}.device", "offloading to NVMe is not tested here. Use 'cpu'.")
        if device not in ("cpu", "none", None):
            refuse(f"zero_optimization.{name}.device", f"{device!r} does not exist. Use 'cpu' or 'none'.")
    parameters: dict[str, Any] = zero.get("offload_param") or {}
    if parameters.get("device") == "cpu" and zero["stage"] != 3:
        refuse(
            "zero_optimization.offload_param",
            f"stage {zero['stage']} keeps whole parameters on the device. Use stage 3, or offload_optimizer.",
        )


def _check_type(section: dict[str, Any], name: str, types: tuple[str, ...], refuse: Refuse) -> None:
    kind = section.get("type")
    same = next((one for one in types if one.lower() == str(kind).lower()), None)
    if same is None:
        refuse(f"{name}.type", f"{kind!r} is not available. Use one of {', '.join(types)}.")
    section["type"] = same
    if not isinstance(section.setdefault("params", {}), dict):
        refuse(f"{name}.params", f"is {section['params']!r}; an object was expected.")


def _check_auto(config: dict[str, Any], refuse: Refuse) -> None:
    for path in auto_paths(config):
        if path not in _AUTO:
            refuse(path, f'"auto" has no meaning here. It is allowed at: {", ".join(_AUTO)}.')


def auto_paths(config: dict[str, Any], prefix: str = "") -> list[str]:
    """List the dotted paths of all values that are "auto".

    Args:
        config: DeepSpeed's JSON, or a section of it.
        prefix: Path of the section, with a dot at its end.
    """
    found: list[str] = []
    for key, value in config.items():
        if isinstance(value, dict):
            found += auto_paths(cast("dict[str, Any]", value), f"{prefix}{key}.")
        elif value == "auto":
            found.append(f"{prefix}{key}")
    return found
