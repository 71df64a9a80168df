"""Which examples share a block of a fixed number of tokens, and how much of the blocks stays unused.

Three strategies. ``bfd``, best fit decreasing: the longest example first, each into the fullest block with enough
room, so that blocks are full and examples stay whole; examples longer than a block are truncated. ``bfd_split`` splits
them into several examples instead. ``wrapped`` concatenates all examples and cuts every ``block_size`` tokens, so that
only the last block has room left, and examples are cut where a block ends.

Whatever the strategy, a block remembers where each of its pieces ends (``seq_lengths``), so that positions restart and
attention stays within a piece. The plan depends only on the lengths, over the whole dataset at once, and uses no
random numbers: the same lengths give the same blocks.

Best fit decreasing for language models: "Fewer Truncations Improve Language Modeling", arXiv 2404.10830.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STRATEGIES = ("bfd", "bfd_split", "wrapped")
LENGTHS = "seq_lengths"
"""The column with the lengths of a block's pieces [tokens]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingReport:
    """Statistics of a packed dataset."""

    strategy: str
    block_size: int
    """[tokens]"""
    num_examples: int
    num_blocks: int
    num_tokens: int
    """Tokens in the blocks."""
    num_cut_off: int
    """Tokens beyond ``block_size`` that were dropped."""

    @property
    def num_unused(self) -> int:
        """Positions in the blocks without a token."""
        return self.num_blocks * self.block_size - self.num_tokens

    @property
    def fill(self) -> float:
        """Fraction of the positions with a token, in [0, 1]."""
        return self.num_tokens / max(self.num_blocks * self.block_size, 1)

    def __str__(self) -> str:
        return (
            f"{self.num_examples} examples in {self.num_blocks} blocks of {self.block_size} tokens ({self.strategy}): "
            f"{self.num_tokens} tokens, {self.fill:.1%} full, {self.num_unused} positions unused, "
            f"{self.num_cut_off} tokens cut off"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingPlan:
    """Pieces of examples in the order of the blocks that they fill."""

    rows: np.ndarray[Any, Any]
    """The example that a piece belongs to."""
    starts: np.ndarray[Any, Any]
    """Its first token in the example."""
    lengths: np.ndarray[Any, Any]
    """Its number of tokens."""
    block_ends: np.ndarray[Any, Any]
    """For each block, the number of pieces up to its end."""
    report: PackingReport

    def blocks(self) -> Iterator[slice]:
        """The pieces of each block."""
        begin = 0
        for end in self.block_ends.tolist():
            yield slice(begin, end)
            begin = end


def plan_packing(
    lengths: Sequence[int] | np.ndarray[Any, Any], block_size: int, strategy: str
) -> PackingPlan:
    """Decide which examples share which block.

    Args:
        lengths: Number of tokens of each example; examples without tokens are dropped.
        block_size: Size of a block [tokens].
        strategy: One of ``STRATEGIES``.

    Raises:
        ValueError: For an unknown strategy, or a block size below 1.
    """
    if strategy not in STRATEGIES or block_size < 1:
        raise ValueError(
            f"strategy={strategy!r}, block_size={block_size}: expected one of {STRATEGIES} and 1 or more."
        )
    sizes = np.asarray(lengths, dtype=np.int64)
    if strategy == "wrapped":
        pieces, block_ends = _wrap(sizes, block_size)
    else:
        pieces = _pieces(sizes, block_size, split=strategy == "bfd_split")
        pieces, block_ends = _fit(pieces, block_size)
    num_tokens = int(pieces[:, 2].sum())
    return PackingPlan(
        rows=pieces[:, 0],
        starts=pieces[:, 1],
        lengths=pieces[:, 2],
        block_ends=np.asarray(block_ends, dtype=np.int64),
        report=PackingReport(
            strategy=strategy,
            block_size=block_size,
            num_examples=int((sizes > 0).sum()),
            num_blocks=len(block_ends),
            num_tokens=num_tokens,
            num_cut_off=int(sizes.sum()) - num_tokens,
        ),
    )


def _pieces(sizes: np.ndarray[Any, Any], block_size: int, *, split: bool) -> np.ndarray[Any, Any]:
    """Rows of (example, start, length), none longer than a block."""
    rows = np.flatnonzero(sizes)
    if not split:
        return np.stack([rows, np.zeros_like(rows), np.minimum(sizes[rows], block_size)], axis=1)
    counts = -(-sizes[rows] // block_size)
    of = np.repeat(rows, counts)
    index = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = index * block_size
    return np.stack([of, starts, np.minimum(sizes[of] - starts, block_size)], axis=1)


def _fit(pieces: np.ndarray[Any, Any], block_size: int) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Best fit decreasing: pieces in the order of their blocks, and where each block ends."""
    blocks: list[list[int]] = []
    with_room: dict[int, deque[int]] = {}
    rooms: list[int] = []  # the keys of with_room, sorted
    for index in np.argsort(-pieces[:, 2], kind="stable").tolist():
        length = int(pieces[index, 2])
        place = bisect.bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms[place]
            block = with_room[room].popleft()
            if not with_room[room]:
                del with_room[room], rooms[place]
        else:
            room, block = block_size, len(blocks)
            blocks.append([])
        blocks[block].append(index)
        left = room - length
        if left > 0:
            if left not in with_room:
                bisect.insort(rooms, left)
                with_room[left] = deque()
            with_room[left].append(block)
    order = [index for block in blocks for index in block]
    return pieces[order], np.cumsum([len(block) for block in blocks]).tolist()


def _wrap(sizes: np.ndarray[Any, Any], block_size: int) -> tuple[np.ndarray[Any, Any], list[int]]:
    """All tokens concatenated, cut where an example or a block ends."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.union1d(ends, np.arange(0, total, block_size))
    cuts = np.union1d(cuts, [0, total])
    begin, lengths = cuts[:-1], np.diff(cuts)
    rows = np.searchsorted(ends, begin, side="right")
    starts = begin - (ends - sizes)[rows] if total else begin
    block_of = begin // block_size
    block_ends = np.searchsorted(block_of, np.arange(-(-total // block_size)), side="right")
    return np.stack([rows, starts, lengths], axis=1).astype(np.int64), block_ends.tolist()
