"""Which columns of a dataset reach the model.

``remove_unused_columns`` keeps what the model's ``forward`` takes and the labels. Columns of a ``datasets.Dataset``
are dropped once, or, where a transform reads them (``with_transform``), from what the transform returns; samples of any
other dataset are stripped by the collator.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping
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

    A transform reads columns that the model does not take (an image, a text), so there they are dropped after it.

    Args:
        dataset: The dataset.
        columns: Names of the columns that the model takes.
        description: Name of the dataset in messages, or None.
        model_name: Name of the model's class in messages.

    Raises:
        ConfigurationError: If no column would be left.
    """
    if has_transform(dataset):
        return _drop_after_transform(dataset, columns)
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


def has_transform(dataset: Any) -> bool:
    """Whether a ``datasets.Dataset`` makes its samples by a function of the user's (``with_transform``)."""
    form: Any = getattr(dataset, "format", None)
    return isinstance(form, Mapping) and cast("Mapping[str, Any]", form).get("type") == "custom"


class KeepAfterTransform:
    """A transform of a ``datasets.Dataset`` that returns only some of the columns of another one.

    Args:
        transform: The user's; takes and returns a batch, a mapping of columns.
        reads: The columns that it is given; None for all.
        keep: Names of the columns that are returned.
        adds_others: Add the columns that it is not given (``output_all_columns``).
    """

    def __init__(
        self,
        transform: Callable[[dict[str, Any]], Any],
        *,
        reads: Collection[str] | None,
        keep: Collection[str],
        adds_others: bool,
    ) -> None:
        self.transform = transform
        self.reads = reads
        self.keep = keep
        self.adds_others = adds_others

    def __call__(self, batch: dict[str, Any]) -> Any:
        given = batch if self.reads is None else {name: batch[name] for name in batch if name in self.reads}
        made: Any = self.transform(given)
        if not isinstance(made, Mapping):
            return made
        columns = dict(cast("Mapping[str, Any]", made))
        if self.adds_others:
            columns |= {name: batch[name] for name in batch if name not in given}
        return {name: column for name, column in columns.items() if name in self.keep}


def _drop_after_transform(dataset: Any, columns: list[str]) -> Any:
    form = dataset.format
    transform = form["format_kwargs"]["transform"]
    if isinstance(transform, KeepAfterTransform):  # given back by an override that strips twice
        return dataset
    reads, adds_others = set(form["columns"]), bool(form["output_all_columns"])
    keep = KeepAfterTransform(transform, reads=reads, keep=frozenset(columns), adds_others=adds_others)
    return dataset.with_transform(keep, columns=None if adds_others else list(form["columns"]))


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
