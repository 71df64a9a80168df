"""Blocks of a stream: examples concatenated and cut every ``block_size`` tokens.

The lengths in a stream are unknown before it is read, so there is no best fit here. The remainder of an example begins
the next block, and so no token is lost. Reading the stream again gives the same blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import IterableDataset

from raytrainer.sft.packing import LENGTHS


class PackedStream(IterableDataset[dict[str, list[int]]]):
    """Yields blocks of ``block_size`` tokens; the last one may be shorter.

    Args:
        examples: Dicts of ``input_ids`` and ``labels``, the same on every rank.
        block_size: Size of a block [tokens].
    """

    def __init__(self, examples: Iterable[dict[str, list[int]]], block_size: int) -> None:
        self.examples = examples
        self.block_size = block_size

    def set_epoch(self, epoch: int) -> None:
        set_epoch = getattr(self.examples, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        block = _empty()
        room = self.block_size
        for example in self.examples:
            ids, labels = example["input_ids"], example["labels"]
            start = 0
            while start < len(ids):
                taken = min(room, len(ids) - start)
                block["input_ids"] += ids[start : start + taken]
                block["labels"] += labels[start : start + taken]
                block[LENGTHS].append(taken)
                start += taken
                room -= taken
                if room == 0:
                    yield block
                    block, room = _empty(), self.block_size
        if block["input_ids"]:
            yield block


def _empty() -> dict[str, Any]:
    return {"input_ids": [], "labels": [], LENGTHS: []}
