"""Loading a model of which no rank ever holds more than its shard.

The model is built without memory for its parameters, sharded, given memory for the shards alone, and each rank reads
the slices of the files that it holds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn

from raytrainer.backends.base import Backend
from raytrainer.checkpoint.model_files import load_model_weights
from raytrainer.errors import ConfigurationError


def load_in_shards(name: str, backend: Backend, device: torch.device) -> nn.Module:
    """All ranks: load a model by path or hub id into shards.

    Args:
        name: Has all weights of the class that its config names, as safetensors.
        backend: Shards the model.
        device: Where the shards lie.

    Raises:
        ConfigurationError: If the config names no class that transformers has.
        CheckpointError: If weights are missing.
    """
    directory = local_directory(name)
    model = backend.wrap(empty_model(name))
    # Buffers are real already, since no file has those that are computed.
    buffers = {key: buffer.clone() for key, buffer in model.named_buffers() if buffer.device.type != "meta"}
    model.to_empty(device=device)
    for key, buffer in model.named_buffers():
        if key in buffers:
            buffer.copy_(buffers[key])
    load_model_weights(model, directory)
    return model.eval()


def empty_model(name: str) -> nn.Module:
    """A model with the parameters of a config and no memory for them."""
    config = transformers.AutoConfig.from_pretrained(name)
    model_class = class_of(config, name)
    with init_empty_weights(include_buffers=False):
        model = model_class._from_config(config)
    # Taking the memory away made two parameters of each tied one.
    model.tie_weights()
    return model


def class_of(config: Any, name: str) -> Any:
    """The class that a config names.

    Raises:
        ConfigurationError: If transformers has none of them.
    """
    for architecture in config.architectures or []:
        model_class = getattr(transformers, architecture, None)
        if model_class is not None:
            return model_class
    raise ConfigurationError(
        f"model={name!r} has a config that names the architectures {config.architectures}, of which transformers has "
        "none. Load the model yourself and pass it, or pass model_init=."
    )


def local_directory(name: str) -> Path:
    """Where the files of a model lie on this machine; those of a hub id are fetched once per node."""
    if os.path.isdir(name):
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json"]))
