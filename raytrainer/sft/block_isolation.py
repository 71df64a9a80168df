"""Whether a model keeps the examples of a block apart: tried, not believed.

Most models of transformers turn positions that restart into a block-diagonal mask. One that does not (ALiBi, a
recurrent layer, code of its own) would train on examples that see each other, with losses that look right. So before
the first step two blocks go through the model that differ in their first example only: what it says of the second must
not differ.
"""

from __future__ import annotations

from typing import Any

import torch

from raytrainer.errors import EngagementError

_NUM_TOKENS = 8
_TOLERANCE = 1e-3
"""Of the size of the logits. A leak of one token into seven changes them by far more, and rounding by less."""


def check_isolation(model: Any, device: torch.device, *, is_flat: bool) -> None:
    """Compare a model's view of an example behind two different ones.

    Args:
        model: Not wrapped; whole on this rank.
        device: Where it lies.
        is_flat: Blocks come as one row.

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
            f"(of {size:.2g}) with the example before it, because the model does not make its attention mask of "
            "position_ids. Set packing=False and padding_free=False."
        )
