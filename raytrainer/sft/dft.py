"""The loss of dynamic fine-tuning: the negative log-likelihood of each target, weighted by the target's probability.

"On the Generalization of SFT", arXiv 2508.05629: the weight, which carries no gradient, takes out of the gradient the
inverse probability that makes unlikely targets dominate it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from raytrainer.sft.collator import IGNORED


def dft_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Compute the loss of a micro-batch.

    Args:
        outputs: Have ``logits`` ``[batch, seq, words]``.
        labels: ``[batch, seq]`` int64, not shifted.
        num_items_in_batch: Targets of the step over all ranks; those of this batch when not given.

    Returns:
        A scalar: the sum over targets, divided by their number.
    """
    targets = labels[..., 1:].flatten()
    logits = outputs.logits[..., :-1, :].flatten(0, -2).float()
    nll = cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    weighted = nll * torch.exp(-nll.detach())
    count = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    return weighted.sum() / count
