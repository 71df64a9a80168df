"""How a causal language model is loaded for fine-tuning, and which models and arguments are incompatible.

A model given by name is loaded where it is trained, the same on every worker.
"""

# from_pretrained of transformers has no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from raytrainer.errors import ConfigurationError
from raytrainer.sft.adapter import check_peft
from raytrainer.sft.config import SFTConfig
from raytrainer.sft.quantization import is_quantized, quantized_without_adapter
from raytrainer.worker.sharded_loading import class_of


def load_causal_model(name: str, args: SFTConfig, *, device: torch.device | None) -> Any:
    """Load a model by hub id or path.

    Args:
        name: As the user gave it.
        args: With the keyword arguments of ``from_pretrained``. The dtype is float32 by default.
        device: The device of a quantized model; None for the CPU.
    """
    options = load_options(args)
    if "quantization_config" in options and device is not None and device.type != "cpu":
        options.setdefault("device_map", {"": device})
    config_options = {
        key: options[key]
        for key in ("revision", "trust_remote_code", "subfolder", "gguf_file")
        if key in options
    }
    config = transformers.AutoConfig.from_pretrained(name, **config_options)
    model_class: Any = transformers.AutoModelForCausalLM
    if config.architectures and not (args.trust_remote_code and getattr(config, "auto_map", None)):
        model_class = class_of(config, name)
    return model_class.from_pretrained(name, **options)


def load_options(args: SFTConfig) -> dict[str, Any]:
    """Return the keyword arguments of ``from_pretrained``."""
    given = args.model_init_kwargs
    options: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    options.setdefault("dtype", "float32")
    if args.trust_remote_code:
        options.setdefault("trust_remote_code", True)
    return options


def check_model(args: SFTConfig, model: Any, peft_config: Any) -> None:
    """Refuse contradictions that can be found before a model is loaded.

    Args:
        args: The arguments.
        model: A module, or a hub id or path.
        peft_config: A ``peft.PeftConfig``, or None.

    Raises:
        ConfigurationError: If arguments and model are incompatible.
    """
    is_named = isinstance(model, str | os.PathLike)
    options = args.model_init_kwargs if isinstance(args.model_init_kwargs, Mapping) else {}
    quantizes = options.get("quantization_config") is not None
    if peft_config is not None:
        check_peft(peft_config)
    if options and not is_named:
        raise ConfigurationError(
            f"model_init_kwargs has {sorted(options)}, but the model is not given by name, so nothing is loaded with "
            "them. Pass the name of the model, or load the model with them yourself."
        )
    if quantizes and peft_config is None:
        raise quantized_without_adapter(type(options["quantization_config"]).__name__)
    if (quantizes or is_quantized(model)) and args.sharded_by is not None:
        raise ConfigurationError(
            f"The model is quantized, but {args.sharded_by} shards weights, which is untested with quantized ones. "
            "Use plain data parallelism, where every worker has the whole quantized model."
        )
    if is_named and args.sharding is not None and args.sharding.loads_on_meta and (options or peft_config):
        raise ConfigurationError(
            "fsdp with cpu_ram_efficient_loading loads shards of a plain model, without model_init_kwargs and without "
            "an adapter. Leave cpu_ram_efficient_loading out."
        )
