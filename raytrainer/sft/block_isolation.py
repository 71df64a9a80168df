"""Whether a model keeps the examples of a block apart: tested rather than assumed.

Most models of transformers turn restarting positions into a block-diagonal mask. One that does not (ALiBi, a recurrent
layer, custom code) would train on examples that attend to each other, with plausible losses. So before the first step
the model runs on two blocks that differ in their first example only: its logits for the second must not differ.
"""

from __future__ import annotations

from typing import Any

import torch

from raytrainer.errors import EngagementError

_NUM_TOKENS = 8
_TOLERANCE = 1e-3
"""Relative to the size of the logits. A leak of one token into seven changes them by far more, rounding by less."""


def check_isolation(model: Any, device: torch.device, *, is_flat: bool) -> None:
    """Compare a model's logits for an example after two different ones.

    Args:
        model: Not wrapped; whole on this rank.
        device: The model's device.
        is_flat: Whether batches are flattened into one row.

    Raises:
        EngagementError: If the example's logits depend on the one before it.
    """
    num_words = model.get_input_embeddings().weight.shape[0]
    words = torch.arange(1, 2 * _NUM_TOKENS + 1, device=device) % num_words
    first, second = words.clone(), words.clone()
    second[:_NUM_TOKENS] = (words[:_NUM_TOKENS] + num_words // 2) % num_words
    positions = torch.arange(_NUM_TOKENS, device=device).repeat(2)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            seen = [
                model(input_ids=ids[None], position_ids=positions[None], use_cache=False).logits[
                    0, _NUM_TOKENS:
                ]
                for ids in (first, second)
            ]
    finally:
        model.train(was_training)
    leak = (seen[0].float() - seen[1].float()).abs().max()
    size = seen[0].float().abs().max()
    if not leak <= _TOLERANCE * size:
        where = "flat batches" if is_flat else "blocks"
        raise EngagementError(
            f"{type(model).__name__} does not keep the examples of {where} apart: logits of one change by {leak:.2g} "
            f"(of {size:.2g}) with the example before it, because the model does not derive its attention mask from "
            "position_ids. Set packing=False and padding_free=False."
        )
