"""Whether the columns of a dataset fit what the model's ``forward`` takes, seen on the driver.

Looks at names only: those of a ``datasets.Dataset``, or the keys of the first sample of any other map-style dataset
and of one with a transform (with the random state put back). A dataset whose columns cannot be known is left to the
workers. Never reads a stream.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers.data.data_collator import (
    DataCollatorWithPadding,
    DefaultDataCollator,
    default_data_collator,
)
from transformers.trainer_utils import (
    unwrap_peft_model,  # pyright: ignore[reportUnknownVariableType]
)
from transformers.utils.generic import (
    find_labels,  # pyright: ignore[reportUnknownVariableType]
)

from raytrainer.data.columns import has_transform
from raytrainer.errors import ConfigurationError
from raytrainer.random_state import HostRandomState
from raytrainer.user_types import DatasetLike

logger = logging.getLogger(__name__)

_LABELS = ("label", "label_ids")
"""Columns that the usual collators turn into labels."""


@dataclass(frozen=True, kw_only=True)
class ForwardColumns:
    """The columns that a model takes."""

    model_name: str
    names: tuple[str, ...]
    """Parameters of ``forward``."""
    labels: tuple[str, ...]
    """Columns that become labels."""
    takes_any: bool
    """Whether ``forward`` has a ``**kwargs``."""


def forward_columns(model: torch.nn.Module, label_names: list[str] | None) -> ForwardColumns:
    """Read what a model's ``forward`` takes.

    Args:
        model: The user's model.
        label_names: ``args.label_names``; None finds the labels in the signature.
    """
    inner = cast("torch.nn.Module", unwrap_peft_model(model))
    parameters = inspect.signature(inner.forward).parameters.values()
    labels: list[str] = find_labels(type(inner)) if label_names is None else label_names
    return ForwardColumns(
        model_name=type(inner).__name__,
        names=tuple(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)),
        labels=(*_LABELS, *labels),
        takes_any=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def check_columns(
    dataset: DatasetLike,
    description: str,
    forward: ForwardColumns,
    *,
    remove_unused: bool,
    passes_through: bool,
) -> None:
    """Check one dataset.

    Args:
        dataset: Any dataset.
        description: The dataset in messages, for instance ``train_dataset``.
        forward: What the model takes.
        remove_unused: ``args.remove_unused_columns``.
        passes_through: Whether every column of a sample reaches ``forward``, because the user brought no collator,
            loader or loss that could change that.

    Raises:
        ConfigurationError: If no column fits the model, or one that is kept does not.
    """
    columns = _stored_columns(dataset) if remove_unused else _batch_columns(dataset)
    if not columns:
        return
    fitting = {*forward.names, *forward.labels}
    takes = f"{forward.model_name}.forward takes {list(forward.names)}"
    if remove_unused:
        if not fitting.intersection(columns):
            raise ConfigurationError(
                f"{description} has the columns {sorted(columns)}, but the model takes none of them "
                f"({takes}), so nothing would be left of a sample. Rename or tokenize the columns, or set "
                "remove_unused_columns=False if your collator makes the model's inputs."
            )
        return
    unfit = sorted(name for name in columns if name not in fitting)
    if unfit and passes_through and not forward.takes_any:
        raise ConfigurationError(
            f"{description} has columns that the model does not take: {unfit} ({takes}), and with "
            "remove_unused_columns=False every column reaches it. Set remove_unused_columns=True, remove "
            "the columns, or pass a collator that uses them."
        )


def passes_columns_through(data_collator: Callable[[list[Any]], Any] | None) -> bool:
    """Whether a collator passes every column to the model under its own name."""
    if data_collator is None or data_collator is default_data_collator:
        return True
    return type(data_collator) in (DefaultDataCollator, DataCollatorWithPadding)


def _stored_columns(dataset: DatasetLike) -> Collection[str] | None:
    """Names of the columns as a sample has them; None if they cannot be known."""
    if has_transform(dataset):
        return _keys(_first_sample(dataset))
    names = getattr(dataset, "column_names", None)
    if isinstance(names, list):
        return cast("list[str]", names)
    return None if names is not None else _keys(_first_sample(dataset))


def _batch_columns(dataset: DatasetLike) -> Collection[str] | None:
    """Names of the columns that the usual collators put into a batch, which leave text out; None if unknown."""
    names = getattr(dataset, "column_names", None)
    if names is not None:
        return _batch_columns_of_hf(dataset) if isinstance(names, list) else None
    sample = _first_sample(dataset)
    keys = _keys(sample)
    return None if keys is None else [key for key in keys if not isinstance(sample[key], str | None)]


def _batch_columns_of_hf(dataset: Any) -> list[str] | None:
    features: Mapping[str, Any] | None = getattr(dataset, "features", None)
    if features is None or has_transform(dataset):
        return None
    return [name for name in dataset.column_names if not _is_text(features[name])]


def _is_text(feature: object) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _keys(sample: object) -> list[str] | None:
    if not isinstance(sample, Mapping):
        return None
    keys = list(cast("Mapping[Any, Any]", sample))
    return keys if all(isinstance(key, str) for key in keys) else None


def _first_sample(dataset: Any) -> Any:
    is_stream = isinstance(dataset, torch.utils.data.IterableDataset)
    if (
        is_stream
        or not hasattr(dataset, "__getitem__")
        or not hasattr(dataset, "__len__")
        or len(dataset) == 0
    ):
        return None
    with _same_randomness():
        try:
            return dataset[0]
        except Exception as error:  # noqa: BLE001 - the data may exist on the workers only, where the error is raised
            logger.debug(
                "Columns are not checked, because the first sample cannot be read on the driver: %s", error
            )
            return None


@contextmanager
def _same_randomness() -> Generator[None]:
    state = HostRandomState.now()
    try:
        yield
    finally:
        state.restore()
