"""Translates accelerate's options about DeepSpeed into fields of ``TrainingArguments``.

Files, flags and the environment of ``accelerate launch`` use the same options: a stage with a few settings, or the
path of DeepSpeed's own JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
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
_VARIABLES = {
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
OPTIONS = (*_READ, *_ON_RAY, *_CHANGES_NOTHING)
DEFAULT_STAGE = 2
"""Accelerate's default when neither a stage nor a file is given."""


def deepspeed_fields(options: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Translate accelerate's options about DeepSpeed into fields of ``TrainingArguments``.

    Args:
        options: The options, by their names in a config file.
        source: Where they come from, for messages.

    Raises:
        ConfigurationError: For an option that is unknown, has no meaning on Ray, or is given beside a file that has it.
    """
    for option, value in options.items():
        if option in _ON_RAY and value not in _OFF:
            raise ConfigurationError(f"{source}: {option}={value!r} is not available: {_ON_RAY[option]}.")
        if option not in OPTIONS:
            raise ConfigurationError(
                f"{source}: {option} is not an option about DeepSpeed.{did_you_mean(option, OPTIONS)}"
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


def options_of_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Read the options that ``accelerate launch`` wrote into the environment."""
    return {option: environment[name] for name, option in _VARIABLES.items() if environment.get(name)}


def _zero(options: Mapping[str, Any]) -> dict[str, Any]:
    stage = options.get("zero_stage")
    zero: dict[str, Any] = {"stage": DEFAULT_STAGE if stage in _OFF else stage}
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
