"""How long the samples of a dataset are, for the orders that put like lengths together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrainer.errors import ConfigurationError


def sample_lengths(dataset: Any, *, column: str, input_name: str | None, wish: str) -> list[int]:
    """The length of every sample: what a column says, else the length of an input [tokens].

    Args:
        dataset: Sized, of mappings. A ``datasets.Dataset`` is read column by column.
        column: Holds lengths, if it is there.
        input_name: Key of a sample whose length counts; ``input_ids`` when None.
        wish: The argument that asks for lengths, as a user writes it.

    Raises:
        ConfigurationError: If samples have neither.
    """
    key = input_name or "input_ids"
    names = getattr(dataset, "column_names", None) or ()
    if column in names:
        return [int(length) for length in dataset[column]]
    if key in names:
        return [len(row) for row in dataset[key]]
    return [_length(dataset[index], column, key, wish) for index in range(len(dataset))]


def _length(row: Any, column: str, key: str, wish: str) -> int:
    if isinstance(row, Mapping) and column in row:
        return int(row[column])
    if isinstance(row, Mapping) and key in row:
        return len(row[key])
    found = sorted(row) if isinstance(row, Mapping) else type(row).__name__
    raise ConfigurationError(
        f"{wish} needs the length of each sample, and a sample ({found}) has neither {column!r} (length_column_name) "
        f"nor {key!r}. Add a column with lengths, or leave {wish} out."
    )
