"""Which of the known names a mistyped one was probably meant to be: the "Did you mean" of every message."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], *, count: int = 3, cutoff: float = 0.6) -> list[str]:
    """List the known names that look most like a word, best first.

    Args:
        word: What the user wrote.
        known: The names that exist.
        count: At most so many names.
        cutoff: Least similarity, from 0 (any name) to 1 (equal).

    Returns:
        Between 0 and ``count`` names.
    """
    import difflib  # by who has mistyped something

    return difflib.get_close_matches(word, list(known), n=count, cutoff=cutoff)


def did_you_mean(word: str, known: Iterable[str], *, count: int = 1) -> str:
    """Ask whether the nearest known names were meant, as a sentence to append to another one.

    Args:
        word: What the user wrote.
        known: The names that exist.
        count: At most so many names.

    Returns:
        For instance ``" Did you mean 'num_workers'?"``, with the leading space; empty if no name is near.
    """
    near = nearest(word, known, count=count)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
