"""Which models have quantized weights, and where ``quantization_config=`` goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrainer.errors import ConfigurationError
from raytrainer.sft.config import SFTConfig


def is_quantized(model: Any) -> bool:
    """Whether a model's weights are not in floating point, so that they cannot be trained."""
    return getattr(model, "quantization_method", None) is not None or any(
        getattr(model, name, False) for name in ("is_loaded_in_4bit", "is_loaded_in_8bit")
    )


def take_quantization(args: SFTConfig, config: Any) -> None:
    """Write ``quantization_config=`` into the keywords of ``from_pretrained``.

    Raises:
        ConfigurationError: If they have one.
    """
    if config is None:
        return
    options = dict(args.model_init_kwargs) if isinstance(args.model_init_kwargs, Mapping) else {}
    if options.get("quantization_config") not in (None, config):
        raise ConfigurationError(
            "quantization_config= and model_init_kwargs both have a quantization_config. Keep one of them."
        )
    args.model_init_kwargs = {**options, "quantization_config": config}


def quantized_without_adapter(by: str) -> ConfigurationError:
    """The error for a model whose weights cannot move."""
    return ConfigurationError(
        f"The model's weights are quantized ({by}), and rounded weights cannot take small steps. Pass "
        "peft_config=LoraConfig(...) to train an adapter on them, or load the model without quantization_config."
    )
