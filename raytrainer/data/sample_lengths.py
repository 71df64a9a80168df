"""How long the samples of a dataset are, for samplers that group similar lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from raytrainer.data.columns import has_transform
from raytrainer.errors import ConfigurationError


def sample_lengths(dataset: Any, *, column: str, input_name: str | None, argument: str) -> list[int]:
    """The length of every sample: what a column says, else the length of an input [tokens].

    Args:
        dataset: Sized, of mappings. A ``datasets.Dataset`` is read column by column, unless a transform makes its
            samples.
        column: Holds lengths, if it is there.
        input_name: Key of a sample whose length counts; ``input_ids`` when None.
        argument: The argument that asks for lengths, as a user writes it.

    Raises:
        ConfigurationError: If samples have neither.
    """
    key = input_name or "input_ids"
    names = getattr(dataset, "column_names", None) or ()
    makes_samples = has_transform(dataset)
    if column in names:
        stored = dataset.with_format(None) if makes_samples else dataset
        return [int(length) for length in stored[column]]
    if key in names and not makes_samples:
        return [len(row) for row in dataset[key]]
    return [_length(dataset[index], column, key, argument) for index in range(len(dataset))]


def _length(row: Any, column: str, key: str, argument: str) -> int:
    columns = cast("Mapping[str, Any] | None", row if isinstance(row, Mapping) else None)
    if columns is not None and column in columns:
        return int(columns[column])
    if columns is not None and key in columns:
        return len(columns[key])
    found = type(cast("object", row)).__name__ if columns is None else sorted(columns)
    raise ConfigurationError(
        f"{argument} needs the length of each sample, but a sample ({found}) has neither {column!r} "
        f"(length_column_name) nor {key!r}. Add a column with lengths, or leave {argument} out."
    )
