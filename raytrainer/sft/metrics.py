"""Token counts over micro-batches and ranks: tokens seen, targets, and targets predicted correctly.

Sums stay on the device until they are logged, so that no micro-batch waits for them. Sums that are not yet logged are
saved in checkpoints, so that a resumed run logs what an uninterrupted one would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from raytrainer.sft.collator import IGNORED


class TokenTally:
    """The counts of one rank."""

    def __init__(self, device: torch.device) -> None:
        self._open = torch.zeros(3, dtype=torch.float64, device=device)
        """Since the last log: targets, targets predicted correctly, tokens. Float64 ``[3]``."""
        self._total = 0.0
        """Tokens of all ranks until the last log."""

    def add(self, logits: torch.Tensor, labels: torch.Tensor, num_tokens: torch.Tensor | int) -> None:
        """Add a micro-batch.

        Args:
            logits: ``[batch, seq, vocab]``.
            labels: ``[batch, seq]`` int64, not shifted.
            num_tokens: Tokens without padding; a scalar [tokens].
        """
        targets = labels[..., 1:]
        guesses = logits.detach()[..., -labels.shape[-1] : -1, :].argmax(dim=-1)
        counts = targets != IGNORED
        self._open[0] += counts.sum()
        self._open[1] += ((guesses == targets) & counts).sum()
        self._open[2] += num_tokens

    def close(self, backend: Any) -> dict[str, float]:
        """All ranks: return the metrics since the last log, and start over.

        Returns:
            ``mean_token_accuracy`` since the last log, in [0, 1], and ``num_tokens`` since the start.
        """
        targets, right, tokens = backend.sum_over_ranks(self._open).tolist()
        self._open.zero_()
        self._total += tokens
        accuracy = right / targets if targets > 0 else float("nan")
        return {"mean_token_accuracy": accuracy, "num_tokens": self._total}

    def state(self, backend: Any) -> dict[str, Any]:
        """All ranks: return what a checkpoint saves."""
        return {"open": backend.sum_over_ranks(self._open).tolist(), "total": self._total}

    def restore(self, state: Mapping[str, Any], *, rank: int) -> None:
        """Continue from a checkpoint; rank 0 takes over the counts of all ranks."""
        self._total = float(state["total"])
        if rank == 0:
            self._open += torch.tensor(state["open"], dtype=torch.float64, device=self._open.device)


def num_tokens_of(inputs: Mapping[str, Any]) -> torch.Tensor | int:
    """Return the number of tokens of a micro-batch without padding, a scalar.

    Without an attention mask, pieces of a single token cannot be distinguished from padding and are not counted.
    """
    if "attention_mask" in inputs:
        return inputs["attention_mask"].sum()
    if "position_ids" in inputs:
        positions = inputs["position_ids"]
        begins = (positions[:, :-1] == 0) & (positions[:, 1:] == 1)
        return (positions != 0).sum() + begins.sum()
    return inputs["input_ids"].numel() if "input_ids" in inputs else 0
