"""Loading a causal language model for fine-tuning, preparing a quantized one, and putting an adapter on it.

What is given by name is loaded where it is trained, the same on every worker: an adapter's first weights are drawn from
the run's seed alone, and the random state of the process stays what it was.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import nn

from raytrainer.errors import ConfigurationError
from raytrainer.sft.config import SFTConfig
from raytrainer.worker.sharded_loading import class_of


def load_causal_model(name: str, args: SFTConfig, *, device: torch.device | None) -> Any:
    """Load a model by hub id or path.

    Args:
        name: As the user gave it.
        args: With the keywords of ``from_pretrained``. The dtype is float32 unless they say another.
        device: Where a quantized model lies; None for the CPU.
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
    """The keywords of ``from_pretrained``."""
    given = args.model_init_kwargs
    options: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    options.setdefault("dtype", "float32")
    if args.trust_remote_code:
        options.setdefault("trust_remote_code", True)
    return options


def is_quantized(model: Any) -> bool:
    """Whether a model's weights are not in floating point, so that they cannot be trained."""
    return getattr(model, "quantization_method", None) is not None or any(
        getattr(model, name, False) for name in ("is_loaded_in_4bit", "is_loaded_in_8bit")
    )


def is_adapted(model: Any) -> bool:
    """Whether a model has an adapter of peft."""
    peft = sys.modules.get("peft")  # importing it takes seconds, and who has an adapter did
    is_wrapped = peft is not None and isinstance(model, peft.PeftModel)
    return is_wrapped or getattr(model, "_hf_peft_config_loaded", False)


def equip(model: Any, peft_config: Any, *, seed: int) -> Any:
    """Put an adapter on a model, if there is one to put, and make sure that something can be trained.

    Args:
        model: A model of transformers, or one that has an adapter.
        peft_config: A ``peft.PeftConfig``, or None.
        seed: The run's seed, from which the adapter's first weights are drawn.

    Raises:
        ConfigurationError: If the weights are quantized and there is no adapter, or two of them.
    """
    if peft_config is None:
        if is_quantized(model) and not is_adapted(model):
            raise quantized_without_adapter(str(getattr(model, "quantization_method", "its loader")))
        return model
    check_peft(peft_config)
    if is_adapted(model) or hasattr(model, "peft_config"):
        raise ConfigurationError(
            "The model has an adapter, and peft_config= asks for another. Call model.merge_and_unload() first, or "
            "leave peft_config out to train the adapter that is there."
        )
    from peft import get_peft_model, prepare_model_for_kbit_training

    if is_quantized(model):
        # Norms and the head become fp32. Activation checkpointing is the trainer's to switch on.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    with seeded(seed, model):
        return get_peft_model(model, peft_config)


def check_peft(peft_config: Any) -> None:
    """Check that peft is there and that a config is one of its.

    Raises:
        ConfigurationError: If not.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigurationError(
            "peft_config= needs the package peft, which is not installed. Run: pip install 'raytrainer[sft]'"
        )
    from peft import PeftConfig

    if not isinstance(peft_config, PeftConfig):
        raise ConfigurationError(
            f"peft_config= is a {type(peft_config).__name__}, where a peft.PeftConfig was expected, for instance "
            "LoraConfig()."
        )
    if peft_config.is_prompt_learning:
        raise ConfigurationError(
            f"peft_config= is a {type(peft_config).__name__}, which puts tokens before each row: positions "
            "and labels shift; that could not be tried with blocks. Use LoraConfig or another adapter of weights."
        )


def quantized_without_adapter(by: str) -> ConfigurationError:
    """The error for a model whose weights cannot move."""
    return ConfigurationError(
        f"The model's weights are quantized ({by}), and rounded weights cannot take small steps. Pass "
        "peft_config=LoraConfig(...) to train an adapter on them, or load the model without quantization_config."
    )


@contextmanager
def seeded(seed: int, model: nn.Module) -> Iterator[None]:
    """Draw from a seed, and give back the random state."""
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(device.index for device in devices)):
        torch.manual_seed(seed)
        yield
