"""How an adapter is put on a model, with the same first weights on every worker.

The weights are drawn from the run's seed alone, and the random state of the process is restored afterwards.
"""

# peft and torch.random have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from raytrainer.errors import ConfigurationError
from raytrainer.sft.quantization import is_quantized, quantized_without_adapter


def is_adapted(model: Any) -> bool:
    """Whether a model has an adapter of peft."""
    peft = sys.modules.get("peft")  # importing it takes seconds, and who has an adapter did
    is_wrapped = peft is not None and isinstance(model, peft.PeftModel)
    return is_wrapped or getattr(model, "_hf_peft_config_loaded", False)


def add_adapter(model: Any, peft_config: Any, *, seed: int) -> Any:
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


@contextmanager
def seeded(seed: int, model: nn.Module) -> Generator[None, None, None]:
    """Draw from a seed, and give back the random state."""
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(device.index for device in devices)):
        torch.manual_seed(seed)
        yield
