"""Counts of tokens over micro-batches and ranks: how many were seen, how many were targets, how many were right.

Sums stay on the device until somebody logs, so that no micro-batch waits for one. What is open when a checkpoint is
saved goes into it, so that a resumed run logs what an uninterrupted one would have.
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
        """Since the last log: targets, targets whose most likely token was right, tokens."""
        self._total = 0.0
        """Tokens of all ranks up to the last log."""

    def add(self, logits: torch.Tensor, labels: torch.Tensor, num_tokens: torch.Tensor | int) -> None:
        """Add a micro-batch.

        Args:
            logits: ``[batch, seq, words]``.
            labels: ``[batch, seq]`` int64, not shifted.
            num_tokens: Tokens that are no filling [tokens].
        """
        targets = labels[..., 1:]
        guesses = logits.detach()[..., -labels.shape[-1] : -1, :].argmax(dim=-1)
        counts = targets != IGNORED
        self._open[0] += counts.sum()
        self._open[1] += ((guesses == targets) & counts).sum()
        self._open[2] += num_tokens

    def close(self, backend: Any) -> dict[str, float]:
        """All ranks: the values of the window, which ends here.

        Returns:
            ``mean_token_accuracy`` of the window, a share of its targets, and ``num_tokens`` of all windows.
        """
        targets, right, tokens = backend.sum_over_ranks(self._open).tolist()
        self._open.zero_()
        self._total += tokens
        accuracy = right / targets if targets > 0 else float("nan")
        return {"mean_token_accuracy": accuracy, "num_tokens": self._total}

    def state(self, backend: Any) -> dict[str, Any]:
        """All ranks: what a checkpoint keeps."""
        return {"open": backend.sum_over_ranks(self._open).tolist(), "total": self._total}

    def restore(self, state: Mapping[str, Any], *, rank: int) -> None:
        """Go on with what a checkpoint kept; rank 0 holds what all ranks had counted."""
        self._total = float(state["total"])
        if rank == 0:
            self._open += torch.tensor(state["open"], dtype=torch.float64, device=self._open.device)


def num_tokens_of(inputs: Mapping[str, Any]) -> torch.Tensor | int:
    """Tokens of a micro-batch without what fills its rows up; pieces of one token alone are not told from filling."""
    if "attention_mask" in inputs:
        return inputs["attention_mask"].sum()
    if "position_ids" in inputs:
        positions = inputs["position_ids"]
        begins = (positions[:, :-1] == 0) & (positions[:, 1:] == 1)
        return (positions != 0).sum() + begins.sum()
    return inputs["input_ids"].numel() if "input_ids" in inputs else 0
