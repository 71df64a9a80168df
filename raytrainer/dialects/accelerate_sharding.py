"""Translates accelerate's options about sharding into fields of ``TrainingArguments``.

Accelerate shards with FSDP or with DeepSpeed. For each of them a config file has a section, the command line a flag
that turns it on, and the environment of ``accelerate launch`` a variable; ``SHARDING_KINDS`` lists them, so that
readers of files, flags and environments treat both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import did_you_mean

_OFF = (None, "", "none", "None", "auto")
_ON_RAY = {
    "deepspeed_hostfile": "Ray knows its nodes; join them with `ray start --address HEAD:6379`",
    "deepspeed_exclusion_filter": "Ray places the workers; use label_selector or accelerator_type",
    "deepspeed_inclusion_filter": "Ray places the workers; use label_selector or accelerator_type",
    "deepspeed_moe_layer_cls_names": "leaf modules are not tested here",
    "offload_optimizer_nvme_path": "offloading to NVMe is not tested here; use the device cpu",
    "offload_param_nvme_path": "offloading to NVMe is not tested here; use the device cpu",
}
_CHANGES_NOTHING = (
    "zero3_init_flag",  # models built on the workers are always partitioned while they are built
    "deepspeed_multinode_launcher",  # Ray starts the workers
    "deepspeed_fields_from_accelerate_config",
)
_READ = (
    "deepspeed_config_file",
    "zero_stage",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "offload_optimizer_device",
    "offload_param_device",
    "zero3_save_16bit_model",
)
_DEEPSPEED_VARIABLES = {
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": "deepspeed_config_file",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "zero_stage",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "gradient_accumulation_steps",
    "ACCELERATE_GRADIENT_CLIPPING": "gradient_clipping",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "offload_optimizer_device",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "offload_param_device",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "zero3_save_16bit_model",
    "ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES": "deepspeed_moe_layer_cls_names",
}
"""Variable that ``accelerate launch --use_deepspeed`` sets for the script -> option."""
_DEEPSPEED_OPTIONS = (*_READ, *_ON_RAY, *_CHANGES_NOTHING)
_DEFAULT_STAGE = 2
"""Accelerate's default when neither a stage nor a file is given."""


_FSDP_VARIABLES = {
    "FSDP_SHARDING_STRATEGY": "sharding_strategy",
    "FSDP_RESHARD_AFTER_FORWARD": "reshard_after_forward",
    "FSDP_OFFLOAD_PARAMS": "offload_params",
    "FSDP_AUTO_WRAP_POLICY": "auto_wrap_policy",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "transformer_layer_cls_to_wrap",
    "FSDP_STATE_DICT_TYPE": "state_dict_type",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "cpu_ram_efficient_loading",
    "FSDP_ACTIVATION_CHECKPOINTING": "activation_checkpointing",
}
"""Variable that ``accelerate launch --use_fsdp`` sets for the script -> key of ``fsdp_config``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardingKind:
    """One way in which accelerate shards a model."""

    argument: str
    """The field of ``TrainingArguments`` that asks for it."""
    section: str
    """Of a config file: holds its options."""
    flag: str
    """Of the command line, without dashes: turns it on."""
    variable: str
    """Of the environment: says that it is on."""
    has_flag: Callable[[str], bool]
    """Whether a flag, without dashes, belongs to its section."""
    from_section: Callable[[Mapping[str, Any], str], dict[str, Any]]
    """Translates the section, which may be empty; the second argument says where it comes from, for messages."""
    from_environment: Callable[[Mapping[str, str]], dict[str, Any]]
    """Translates what ``accelerate launch`` wrote into the environment."""


def _fsdp_fields(options: Mapping[str, Any], source: str) -> dict[str, Any]:
    # ``dialects.fsdp`` checks the options; here they only change places.
    return {"fsdp": True, **({"fsdp_config": dict(options)} if options else {})}


def _fsdp_of_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    # The launcher writes both vocabularies, with defaults in the one that does not count.
    unused = (
        "FSDP_RESHARD_AFTER_FORWARD" if environment.get("FSDP_VERSION") == "1" else "FSDP_SHARDING_STRATEGY"
    )
    config = {
        key: environment[name]
        for name, key in _FSDP_VARIABLES.items()
        if name != unused and environment.get(name)
    }
    if config.get("auto_wrap_policy") == "SIZE_BASED_WRAP":
        config["min_num_params"] = environment.get("FSDP_MIN_NUM_PARAMS", "0")
    return {"fsdp": True, "fsdp_config": config}


def _deepspeed_fields(options: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Raises ConfigurationError for an option that is unknown, has no meaning on Ray, or that the named file sets."""
    for option, value in options.items():
        if option in _ON_RAY and value not in _OFF:
            raise ConfigurationError(f"{source}: {option}={value!r} is not available: {_ON_RAY[option]}.")
        if option not in _DEEPSPEED_OPTIONS:
            raise ConfigurationError(
                f"{source}: {option} is not an option about DeepSpeed.{did_you_mean(option, _DEEPSPEED_OPTIONS)}"
            )
    file = options.get("deepspeed_config_file")
    if file not in _OFF:
        beside = [option for option in _READ[1:] if options.get(option) not in _OFF]
        if beside:
            raise ConfigurationError(
                f"{source}: {', '.join(beside)} given beside deepspeed_config_file={file!r}, "
                "DeepSpeed's own JSON, which sets it as well. Keep one of the two."
            )
        return {"deepspeed": str(file)}
    found: dict[str, Any] = {"deepspeed": {"zero_optimization": _zero(options)}}
    steps, norm = options.get("gradient_accumulation_steps"), options.get("gradient_clipping")
    if steps not in (*_OFF, 1, "1"):  # 1 is what `accelerate config` writes by default
        found["gradient_accumulation_steps"] = _number("gradient_accumulation_steps", steps, int, source)
    if norm not in _OFF:
        found["max_grad_norm"] = _number("gradient_clipping", norm, float, source)
    return found


def _deepspeed_of_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    options = {
        option: environment[name] for name, option in _DEEPSPEED_VARIABLES.items() if environment.get(name)
    }
    return _deepspeed_fields(options, "accelerate launch")


def _zero(options: Mapping[str, Any]) -> dict[str, Any]:
    stage = options.get("zero_stage")
    zero: dict[str, Any] = {"stage": _DEFAULT_STAGE if stage in _OFF else stage}
    for what in ("optimizer", "param"):
        device = options.get(f"offload_{what}_device")
        if device not in _OFF:
            zero[f"offload_{what}"] = {"device": device}
    if str(options.get("zero3_save_16bit_model")).lower() == "true":
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return zero


def _number(option: str, value: Any, kind: type, source: str) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{source}: {option}={value!r} is not a number. Give one.") from error


SHARDING_KINDS = {
    "FSDP": ShardingKind(
        argument="fsdp",
        section="fsdp_config",
        flag="use_fsdp",
        variable="ACCELERATE_USE_FSDP",
        has_flag=lambda name: name.startswith("fsdp_"),
        from_section=_fsdp_fields,
        from_environment=_fsdp_of_environment,
    ),
    "DEEPSPEED": ShardingKind(
        argument="deepspeed",
        section="deepspeed_config",
        flag="use_deepspeed",
        variable="ACCELERATE_USE_DEEPSPEED",
        has_flag=lambda name: name in _DEEPSPEED_OPTIONS,
        from_section=_deepspeed_fields,
        from_environment=_deepspeed_of_environment,
    ),
}
"""By accelerate's ``distributed_type``."""
SHARDING_ARGUMENTS = tuple(kind.argument for kind in SHARDING_KINDS.values())
"""The fields of ``TrainingArguments`` that shard the model over the workers."""
SHARDING_FIELDS = (*SHARDING_ARGUMENTS, "fsdp_config", "fsdp_plugin_args", "deepspeed_plugin")
"""These, the fields that go with them, and what is derived from them."""
PLUGIN_KINDS = (*SHARDING_KINDS, "MEGATRON_LM")
"""The values of accelerate's ``distributed_type`` that come with a plugin."""
PLUGIN_ATTRIBUTES = ("deepspeed_plugin", "deepspeed_plugins", "fsdp_plugin", "megatron_lm_plugin")
"""Where accelerate's state keeps its plugins."""
ACCELERATOR_PLUGIN = "deepspeed_plugin"
"""The one of them that an ``Accelerator`` returns too."""
