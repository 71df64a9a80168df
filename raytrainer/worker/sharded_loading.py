"""Loading a model so that no rank ever holds more than its shard.

The model is built without memory for its parameters, sharded, and given memory for the shards only. Then each rank
reads its slices of the files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedConfig

from raytrainer.backends.base import Backend
from raytrainer.errors import ConfigurationError


def load_in_shards(name: str, backend: Backend, device: torch.device) -> nn.Module:
    """All ranks: load a model into shards.

    Args:
        name: Path or hub id of a model whose weights are safetensors.
        backend: Shards the model.
        device: Device of the shards.

    Raises:
        ConfigurationError: If the config names no class that transformers has.
        CheckpointError: If weights are missing.
    """
    directory = local_directory(name)
    model = backend.wrap(empty_model(name))
    # Buffers have memory already, since computed ones are in no file.
    buffers = {key: buffer.clone() for key, buffer in model.named_buffers() if buffer.device.type != "meta"}
    model.to_empty(device=device)
    for key, buffer in model.named_buffers():
        if key in buffers:
            buffer.copy_(buffers[key])
    backend.load_model(model, directory)
    return model.eval()


def empty_model(name: str) -> nn.Module:
    """A model whose parameters have no memory."""
    config = load_config(name)
    model_class = class_of(config, name)
    with init_empty_weights(include_buffers=False):
        model = model_class._from_config(config)
    # Without memory, each pair of tied parameters has become two.
    model.tie_weights()
    return model


def load_config(name: str) -> PreTrainedConfig:
    """Load the config of a model by hub id or path."""
    load = cast("Any", transformers.AutoConfig).from_pretrained
    return load(name)


def class_of(config: PreTrainedConfig, name: str) -> Any:
    """The class of transformers that a config names.

    Raises:
        ConfigurationError: If transformers has no such class.
    """
    architectures = config.architectures or []
    for architecture in architectures:
        model_class = getattr(transformers, architecture, None)
        if model_class is not None:
            return model_class
    raise ConfigurationError(
        f"The config of model={name!r} names the architectures {architectures}, and transformers has no class of these "
        "names. Load the model yourself and pass it, or pass model_init=."
    )


def local_directory(name: str) -> Path:
    """The directory of a model's files on this machine; those of a hub id are fetched once per node."""
    if os.path.isdir(name):
        return Path(name)
    import huggingface_hub

    return Path(huggingface_hub.snapshot_download(name, allow_patterns=["*.safetensors", "*.json"]))
