"""Generation with a model whose parameters may be sharded over ranks.

Ranks finish their sequences at different times. If every forward pass gathers parameters, all ranks must take part in
all of them, so ranks that have finished go on with forward passes whose results are ignored (``synced_gpus`` of
``generate``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from raytrainer.errors import ConfigurationError
from raytrainer.layout.tensor_layout import has_distributed_parameters


def generate(model: Any, inputs: dict[str, Any], keywords: dict[str, Any]) -> torch.Tensor:
    """All ranks: generate sequences for a batch.

    Args:
        model: The user's module; FSDP2 may have wrapped it in place.
        inputs: The batch without labels, on the rank's device.
        keywords: Keyword arguments of ``generate``.

    Returns:
        Tokens ``[batch, length]``; the length may differ between batches and between ranks.

    Raises:
        ConfigurationError: If ``generate`` does not return one sequence per sample.
    """
    keywords = {"synced_gpus": has_distributed_parameters(model), **keywords}
    with torch.no_grad(), whole_outermost_unit(model):
        made = model.generate(**inputs, **keywords)
    tokens = made if isinstance(made, torch.Tensor) else made.sequences
    batch_size = next(value.shape[0] for value in inputs.values() if isinstance(value, torch.Tensor))
    if tokens.shape[0] != batch_size:
        raise ConfigurationError(
            f"generate() returned {tokens.shape[0]} sequences for {batch_size} samples, but one each was expected, to "
            "match predictions with labels. Leave num_return_sequences at 1."
        )
    return tokens


@contextlib.contextmanager
def whole_outermost_unit(model: nn.Module) -> Generator[None, None, None]:
    """All ranks: gather the parameters of FSDP2's outermost unit, such as shared embeddings.

    ``generate`` calls the encoder alone, before a forward pass of the whole model would gather them.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def prompt_length(model: nn.Module, inputs: dict[str, Any]) -> int:
    """Return the length of the beginning of each sequence: a decoder's start token, or a prompt [tokens]."""
    if getattr(model.config, "is_encoder_decoder", False):
        begun = inputs.get("decoder_input_ids")
        return 1 if begun is None else begun.shape[-1]
    prompt = inputs.get("input_ids")
    return 0 if prompt is None else prompt.shape[-1]


def fill_up(tensor: torch.Tensor, length: int, value: int) -> torch.Tensor:
    """Pad a tensor on the right.

    Args:
        tensor: ``[batch, tokens]``.
        length: The length wanted; a longer tensor is returned unchanged [tokens].
        value: The padding.

    Returns:
        ``[batch, length]`` or longer.
    """
    missing = length - tensor.shape[-1]
    return tensor if missing <= 0 else torch.nn.functional.pad(tensor, (0, missing), value=value)
