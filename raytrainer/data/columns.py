"""Which columns of a dataset reach the model.

``remove_unused_columns`` keeps what the model's ``forward`` takes and the labels. Columns of a ``datasets.Dataset``
are dropped once; samples of any other dataset are stripped by the collator.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from transformers import trainer_utils
from transformers.trainer_utils import RemoveColumnsCollator

from raytrainer.errors import ConfigurationError

logger = logging.getLogger(__name__)


def signature_columns(model: torch.nn.Module, label_names: list[str]) -> list[str]:
    """Names that the model's ``forward`` takes, and the names that labels may have."""
    unwrapped = cast("Any", trainer_utils.unwrap_peft_model)(model)
    forward = unwrapped.forward
    names = list(inspect.signature(forward).parameters)
    return names + [name for name in ("label", "label_ids", *label_names) if name not in names]


def drop_unused_columns(dataset: Any, columns: list[str], *, description: str | None, model_name: str) -> Any:
    """Drop the columns of a ``datasets.Dataset`` that the model does not take.

    Args:
        dataset: The dataset.
        columns: Names of the columns that the model takes.
        description: Name of the dataset in messages, or None.
        model_name: Name of the model's class in messages.

    Raises:
        ConfigurationError: If no column would be left.
    """
    unused = [name for name in dataset.column_names if name not in columns]
    if len(unused) == len(dataset.column_names):
        raise ConfigurationError(
            f"The {description or 'given'} dataset has the columns {sorted(dataset.column_names)}, and "
            f"{model_name}.forward takes none of them (it takes {columns}). Rename the columns, tokenize the dataset, "
            "or set remove_unused_columns=False if your collator makes the model's inputs."
        )
    if unused:
        logger.debug(
            "Columns of the %s set that %s.forward does not take: %s.", description, model_name, unused
        )
    return dataset.remove_columns(unused)


def strip_in_collator(
    collate: Callable[[list[Any]], Any], columns: list[str], *, description: str | None, model_name: str
) -> Callable[[list[Any]], Any]:
    """Wrap a collator so that keys that the model does not take are removed from samples.

    Args:
        collate: Makes a batch from a list of samples.
        columns: Names of the columns that the model takes.
        description: Name of the dataset in messages, or None.
        model_name: Name of the model's class in messages.
    """
    return RemoveColumnsCollator(
        data_collator=collate,
        signature_columns=columns,
        logger=logger,
        description=description,
        model_name=model_name,
    )
