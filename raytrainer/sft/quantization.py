"""Which models have quantized weights, and how ``quantization_config=`` is passed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrainer.errors import ConfigurationError
from raytrainer.sft.config import SFTConfig


def is_quantized(model: Any) -> bool:
    """Whether a model's weights are quantized, so that they cannot be trained."""
    return getattr(model, "quantization_method", None) is not None or any(
        getattr(model, name, False) for name in ("is_loaded_in_4bit", "is_loaded_in_8bit")
    )


def take_quantization(args: SFTConfig, config: object) -> None:
    """Add ``quantization_config=`` to the keyword arguments of ``from_pretrained``.

    Raises:
        ConfigurationError: If they already have a different one.
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
    """Return the error for a quantized model without an adapter."""
    return ConfigurationError(
        f"The model's weights are quantized ({by}), and quantized weights cannot be trained. Pass "
        "peft_config=LoraConfig(...) to train an adapter on them, or load the model without quantization_config."
    )
