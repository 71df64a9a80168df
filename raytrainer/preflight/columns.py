"""Whether the columns of a dataset fit what the model's ``forward`` takes, seen on the driver.

Looks at names only: those of a ``datasets.Dataset``, or the keys of the first sample of any other map-style dataset
(with the random state put back). Datasets that tell nothing are left to the workers. Never reads a stream.
"""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.data.data_collator import (
    DataCollatorWithPadding,
    DefaultDataCollator,
    default_data_collator,
)
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils import find_labels

from raytrainer.errors import ConfigurationError

logger = logging.getLogger(__name__)

_LABELS = ("label", "label_ids")
"""Names under which the usual collators take labels."""


@dataclass(frozen=True, kw_only=True)
class ForwardColumns:
    """What a model takes."""

    model_name: str
    names: tuple[str, ...]
    """Parameters of ``forward``."""
    labels: tuple[str, ...]
    """Columns that hold labels."""
    takes_any: bool
    """Whether ``forward`` has a ``**kwargs``."""


def forward_columns(model: torch.nn.Module, label_names: list[str] | None) -> ForwardColumns:
    """Read what a model's ``forward`` takes.

    Args:
        model: The user's model.
        label_names: ``args.label_names``; None finds the labels in the signature.
    """
    inner = unwrap_peft_model(model)
    parameters = inspect.signature(inner.forward).parameters.values()
    labels = find_labels(type(inner)) if label_names is None else label_names
    return ForwardColumns(
        model_name=type(inner).__name__,
        names=tuple(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)),
        labels=(*_LABELS, *labels),
        takes_any=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def check_columns(
    dataset: Any,
    description: str,
    forward: ForwardColumns,
    *,
    remove_unused: bool,
    passes_through: bool,
) -> None:
    """Check one dataset.

    Args:
        dataset: Any dataset.
        description: Names it in messages, for instance ``train_dataset``.
        forward: What the model takes.
        remove_unused: ``args.remove_unused_columns``.
        passes_through: Whether every column of a sample reaches ``forward``: no collator, loader or loss of the
            user's own stands between.

    Raises:
        ConfigurationError: If no column fits, or one that is kept does not.
    """
    columns = _columns_of(dataset, after_transform=not remove_unused)
    if not columns:
        return
    fitting = {*forward.names, *forward.labels}
    takes = f"{forward.model_name}.forward takes {list(forward.names)}"
    if remove_unused:
        if not fitting.intersection(columns):
            raise ConfigurationError(
                f"{description} has the columns {sorted(columns)}, and the model takes none of them "
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


def passes_columns_through(data_collator: Any) -> bool:
    """Whether a collator hands every column to the model under its own name."""
    if data_collator is None or data_collator is default_data_collator:
        return True
    return type(data_collator) in (DefaultDataCollator, DataCollatorWithPadding)


def _columns_of(dataset: Any, *, after_transform: bool) -> Collection[str] | None:
    """Names of the columns, as they are stored or as samples have them; None where they cannot be known."""
    names = getattr(dataset, "column_names", None)
    features = getattr(dataset, "features", None)
    if isinstance(names, list) and not after_transform:
        return names
    if isinstance(names, list) and features is not None:
        if getattr(dataset, "format", {}).get("type") == "custom":
            return None
        # The usual collator leaves text out of batches.
        return [
            name for name in names if getattr(features[name], "dtype", None) not in ("string", "large_string")
        ]
    if names is not None or isinstance(dataset, torch.utils.data.IterableDataset):
        return None
    sample = _first_sample(dataset)
    if not isinstance(sample, Mapping) or not all(isinstance(key, str) for key in sample):
        return None
    if not after_transform:
        return list(sample)
    return [key for key, value in sample.items() if value is not None and not isinstance(value, str)]


def _first_sample(dataset: Any) -> Any:
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or len(dataset) == 0:
        return None
    with _same_randomness():
        try:
            return dataset[0]
        except Exception as error:  # noqa: BLE001 - the data may be on the workers only; there it would be raised
            logger.debug("Columns are not checked, the first sample cannot be read on the driver: %s", error)
            return None


@contextmanager
def _same_randomness() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
