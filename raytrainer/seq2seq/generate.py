"""Generating with a model whose parameters may lie in pieces on the ranks.

Ranks finish their sequences at different times. Where every forward pass gathers parameters, all ranks must take part
in all of them, so the ones that are done go on with passes that count nothing (``synced_gpus`` of ``generate``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from raytrainer.errors import ConfigurationError
from raytrainer.layout.tensor_layout import has_distributed_parameters


def generate(model: Any, inputs: dict[str, Any], keywords: dict[str, Any]) -> torch.Tensor:
    """All ranks: generate from a batch.

    Args:
        model: The user's module, wrapped in place or not.
        inputs: What it generates from, on the rank's device.
        keywords: Of ``generate``.

    Returns:
        Tokens ``[batch, length]``; the length may differ from batch to batch and from rank to rank.
    """
    keywords = {"synced_gpus": has_distributed_parameters(model), **keywords}
    with torch.no_grad(), whole_outermost_unit(model):
        made = model.generate(**inputs, **keywords)
    tokens = made if isinstance(made, torch.Tensor) else made.sequences
    batch_size = next(value.shape[0] for value in inputs.values() if isinstance(value, torch.Tensor))
    if tokens.shape[0] != batch_size:
        raise ConfigurationError(
            f"generate() made {tokens.shape[0]} sequences of {batch_size} samples, and one each was expected, since "
            "predictions stand beside labels. Leave num_return_sequences at 1."
        )
    return tokens


@contextlib.contextmanager
def whole_outermost_unit(model: Any) -> Generator[None, None, None]:
    """All ranks: gather what FSDP2's outermost unit holds, such as shared embeddings.

    ``generate`` calls the encoder by itself, before the first forward pass of the whole model would gather them.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def prompt_length(model: Any, inputs: dict[str, Any]) -> int:
    """Tokens that a batch's sequences begin with: the start token of a decoder, or the prompt of a language model."""
    if getattr(model.config, "is_encoder_decoder", False):
        begun = inputs.get("decoder_input_ids")
        return 1 if begun is None else begun.shape[-1]
    prompt = inputs.get("input_ids")
    return 0 if prompt is None else prompt.shape[-1]


def fill_up(tensor: torch.Tensor, length: int, value: int) -> torch.Tensor:
    """Fill ``[batch, tokens]`` up on the right to a length; what is longer stays."""
    missing = length - tensor.shape[-1]
    return tensor if missing <= 0 else torch.nn.functional.pad(tensor, (0, missing), value=value)
