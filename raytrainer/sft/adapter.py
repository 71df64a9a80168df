"""How an adapter is added to a model, with the same initial weights on every worker.

The weights depend on the run's seed alone, and the random state of the process is restored afterwards.
"""

# peft and torch.random have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from raytrainer.errors import ConfigurationError, MissingPackageError
from raytrainer.sft.quantization import is_quantized, quantized_without_adapter


def is_adapted(model: nn.Module) -> bool:
    """Whether a model has a peft adapter."""
    peft = sys.modules.get("peft")  # importing it takes seconds; a model with an adapter has imported it
    is_wrapped = peft is not None and isinstance(model, peft.PeftModel)
    return is_wrapped or getattr(model, "_hf_peft_config_loaded", False)


def add_adapter(model: Any, peft_config: Any, *, seed: int) -> Any:
    """Add an adapter to a model, if one is requested, and make sure that something can be trained.

    Args:
        model: A model of transformers, possibly with an adapter.
        peft_config: A ``peft.PeftConfig``, or None.
        seed: The run's seed, from which the initial weights are drawn.

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
            "The model already has an adapter, but peft_config= asks for another. Call model.merge_and_unload() first, "
            "or leave peft_config out to train the existing adapter."
        )
    from peft import get_peft_model, prepare_model_for_kbit_training

    if is_quantized(model):
        # Norms and the head become fp32. The trainer switches activation checkpointing on.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    with seeded(seed, model):
        return get_peft_model(model, peft_config)


def check_peft(peft_config: object) -> None:
    """Check that peft is installed and that a config is a ``PeftConfig``.

    Raises:
        ConfigurationError: If not.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingPackageError(
            "peft_config= needs the package peft, which is not installed. Run: pip install 'raytrainer[sft]'"
        )
    from peft import PeftConfig

    if not isinstance(peft_config, PeftConfig):
        raise ConfigurationError(
            f"peft_config= is a {type(peft_config).__name__}, but a peft.PeftConfig was expected, for instance "
            "LoraConfig()."
        )
    if peft_config.is_prompt_learning:
        raise ConfigurationError(
            f"peft_config= is a {type(peft_config).__name__}, which puts tokens before each row, so that "
            "positions and labels shift; this is untested with blocks. Use LoraConfig or another adapter of weights."
        )


@contextmanager
def seeded(seed: int, model: nn.Module) -> Generator[None, None, None]:
    """Seed the random state inside, and restore it afterwards."""
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(device.index for device in devices)):
        torch.manual_seed(seed)
        yield
