"""Batches for causal language models: padded rows, and positions that separate the pieces of a block.

A block's positions restart at each of its pieces. Given positions and no attention mask, transformers builds
a block-diagonal causal mask from them (sdpa, eager, flex attention), row by row; flash attention finds pieces in one
row only, so for it the batch is flattened. The first label of a piece is never a target, since the token before it
belongs to another example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from raytrainer.errors import ConfigurationError
from raytrainer.sft.config import SFTConfig
from raytrainer.sft.packing import LENGTHS

IGNORED = -100


@dataclass
class CausalCollator:
    """Makes a batch from samples with ``input_ids``, and optionally ``labels`` and ``seq_lengths``.

    Args:
        pad_token_id: The padding token.
        restarts_positions: Return positions instead of an attention mask; required for blocks.
        is_flat: Concatenate the samples of the batch into one row.
        pad_to_multiple_of: Pad rows to a multiple of this length [tokens].
    """

    pad_token_id: int
    restarts_positions: bool = False
    is_flat: bool = False
    pad_to_multiple_of: int | None = None

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate.

        Returns:
            ``input_ids`` and ``labels`` ``[batch, seq]`` int64, and ``attention_mask`` or ``position_ids`` of the same
            shape; ``[1, tokens]`` if the batch is flattened.
        """
        ids = [torch.as_tensor(sample["input_ids"], dtype=torch.int64) for sample in samples]
        labels = [
            torch.as_tensor(sample.get("labels", sample["input_ids"]), dtype=torch.int64)
            for sample in samples
        ]
        if not (self.restarts_positions or self.is_flat):
            mask = [torch.ones_like(row) for row in ids]
            return {
                "input_ids": self._pad(ids, self.pad_token_id),
                "attention_mask": self._pad(mask, 0),
                "labels": self._pad(labels, IGNORED),
            }
        positions = [positions_of(sample.get(LENGTHS) or [len(sample["input_ids"])]) for sample in samples]
        if self.is_flat:
            ids, labels, positions = [torch.cat(ids)], [torch.cat(labels)], [torch.cat(positions)]
        labels = [row.masked_fill(where == 0, IGNORED) for row, where in zip(labels, positions, strict=True)]
        return {
            "input_ids": self._pad(ids, self.pad_token_id),
            "position_ids": self._pad(positions, 0),  # each padding position is a piece of its own
            "labels": self._pad(labels, IGNORED),
        }

    def _pad(self, rows: list[torch.Tensor], value: int) -> torch.Tensor:
        length = max(len(row) for row in rows)
        if self.pad_to_multiple_of:
            length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        padded = rows[0].new_full((len(rows), length), value)
        for index, row in enumerate(rows):
            padded[index, : len(row)] = row
        return padded


def positions_of(lengths: list[int]) -> torch.Tensor:
    """Positions that restart at each piece, ``[sum of lengths]`` int64."""
    return torch.cat([torch.arange(length) for length in lengths])


def collator_for(args: SFTConfig, own: object, tokenizer: Any) -> Any:
    """Return the user's collator, or the default one.

    Args:
        args: The arguments.
        own: The user's collator, or None.
        tokenizer: Its padding token is used.

    Raises:
        ConfigurationError: If the user passed a collator, which cannot know where packed examples end.
    """
    restarts = args.packs_training or args.packs_evaluation or args.padding_free
    if own is not None:
        if restarts:
            raise ConfigurationError(
                "data_collator= was given with packing or padding_free, but it does not know where the examples of a "
                "block end. Leave one of the two out."
            )
        return own
    return CausalCollator(
        pad_token_id=tokenizer.pad_token_id,
        restarts_positions=restarts,
        is_flat=args.padding_free,
        pad_to_multiple_of=args.pad_to_multiple_of,  # pyright: ignore[reportArgumentType]
    )
