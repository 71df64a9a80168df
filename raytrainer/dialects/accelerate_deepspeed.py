"""What accelerate's words about DeepSpeed mean as arguments.

Files, flags and the environment of ``accelerate launch`` use the same words, beside each other: a stage with a few
options, or the path of DeepSpeed's own JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import did_you_mean

_OFF = (None, "", "none", "None", "auto")
_ON_RAY = {
    "deepspeed_hostfile": "Ray knows its nodes: join them with `ray start --address HEAD:6379`",
    "deepspeed_exclusion_filter": "Ray places the workers: use label_selector or accelerator_type",
    "deepspeed_inclusion_filter": "Ray places the workers: use label_selector or accelerator_type",
    "deepspeed_moe_layer_cls_names": "leaf modules were never run here",
    "offload_optimizer_nvme_path": "offload to NVMe was never run here; use the device cpu",
    "offload_param_nvme_path": "offload to NVMe was never run here; use the device cpu",
}
_CHANGES_NOTHING = (
    "zero3_init_flag",  # models that are made on the workers are always cut as they are made
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
"""What ``accelerate launch --use_deepspeed`` leaves for the script."""
WORDS = (*_READ, *_ON_RAY, *_CHANGES_NOTHING)
DEFAULT_STAGE = 2
"""Accelerate's, when neither a stage nor a file is given."""


def deepspeed_fields(words: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Make fields of ``TrainingArguments`` of accelerate's words about DeepSpeed.

    Raises:
        ConfigurationError: For a word that is unknown, makes no sense on Ray, or says what a file says too.
    """
    for word, value in words.items():
        if word in _ON_RAY and value not in _OFF:
            raise ConfigurationError(f"{source}: {word}={value!r} is not available: {_ON_RAY[word]}.")
        if word not in WORDS:
            raise ConfigurationError(
                f"{source}: {word} is no word about DeepSpeed.{did_you_mean(word, WORDS)}"
            )
    file = words.get("deepspeed_config_file")
    if file not in _OFF:
        beside = [word for word in _READ[1:] if words.get(word) not in _OFF]
        if beside:
            raise ConfigurationError(
                f"{source}: {', '.join(beside)} beside deepspeed_config_file={file!r}, where DeepSpeed's own JSON says "
                "it. Keep one of the two."
            )
        return {"deepspeed": str(file)}
    found: dict[str, Any] = {"deepspeed": {"zero_optimization": _zero(words)}}
    steps, norm = words.get("gradient_accumulation_steps"), words.get("gradient_clipping")
    if steps not in (*_OFF, 1, "1"):  # 1 is what `accelerate config` writes when nothing is said
        found["gradient_accumulation_steps"] = _number("gradient_accumulation_steps", steps, int, source)
    if norm not in _OFF:
        found["max_grad_norm"] = _number("gradient_clipping", norm, float, source)
    return found


def words_of_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The words that ``accelerate launch`` wrote into the environment."""
    return {word: environment[name] for name, word in _VARIABLES.items() if environment.get(name)}


def _zero(words: Mapping[str, Any]) -> dict[str, Any]:
    stage = words.get("zero_stage")
    zero: dict[str, Any] = {"stage": DEFAULT_STAGE if stage in _OFF else stage}
    for what in ("optimizer", "param"):
        device = words.get(f"offload_{what}_device")
        if device not in _OFF:
            zero[f"offload_{what}"] = {"device": device}
    if str(words.get("zero3_save_16bit_model")).lower() == "true":
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return zero


def _number(word: str, value: Any, kind: type, source: str) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{source}: {word}={value!r} is no number.") from error
