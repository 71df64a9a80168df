"""Which loss is computed: the model's own, or that of dynamic fine-tuning (DFT).

DFT ("On the Generalization of SFT", arXiv 2508.05629) weights the negative log-likelihood of each target by the
target's probability. The weight, which carries no gradient, removes from the gradient the inverse probability that
makes unlikely targets dominate it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from raytrainer.errors import ConfigurationError
from raytrainer.sft.collator import IGNORED
from raytrainer.sft.config import SFTConfig


def dft_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Compute the loss of a micro-batch.

    Args:
        outputs: With ``logits`` ``[batch, seq, vocab]``.
        labels: ``[batch, seq]`` int64, not shifted.
        num_items_in_batch: Number of targets of the step over all ranks; by default that of this batch.

    Returns:
        A scalar: the sum over targets, divided by their number.
    """
    targets = labels[..., 1:].flatten()
    logits = outputs.logits[..., :-1, :].flatten(0, -2).float()
    nll = cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    weighted = nll * torch.exp(-nll.detach())
    count = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    return weighted.sum() / count


def loss_function(args: SFTConfig, own: object) -> Any:
    """Return the loss function for ``compute_loss_func``; None for the model's own loss.

    Raises:
        ConfigurationError: If two losses are requested.
    """
    if args.loss_type != "dft":
        return own
    if own is not None or args.label_smoothing_factor > 0:
        raise ConfigurationError(
            "loss_type='dft' is a loss of its own, but compute_loss_func= or label_smoothing_factor asks for another. "
            "Keep one of them."
        )
    return dft_loss
