"""Whether a dataset can be trained on or evaluated: it has samples, it is whole, and its columns fit the model.

Only sized datasets are asked for their length, and no stream is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from transformers.trainer_utils import has_length

from raytrainer.errors import ConfigurationError
from raytrainer.preflight.columns import check_columns, forward_columns, passes_columns_through
from raytrainer.preflight.facts import MAKES_BATCHES, USES_INPUTS, TrainerFacts
from raytrainer.user_types import DatasetLike


def named_datasets(dataset: Any, keyword: str) -> Iterator[tuple[str, Any]]:
    """List the datasets that a keyword was given, each with the name that messages use.

    Args:
        dataset: A dataset, a dict of datasets, or None.
        keyword: For instance ``eval_dataset``.
    """
    if dataset is None:
        return
    if isinstance(dataset, Mapping):
        for name, one in cast("Mapping[str, Any]", dataset).items():
            yield f"{keyword}[{name!r}]", one
    else:
        yield keyword, dataset


def check_not_empty(name: str, dataset: DatasetLike) -> None:
    """Check that a dataset of known length has a sample.

    Raises:
        ConfigurationError: If it has none.
    """
    if has_length(dataset) and len(dataset) == 0:
        raise ConfigurationError(
            f"{name} has no samples; at least one was expected. Check how the dataset was loaded."
        )


def check_fits_model(facts: TrainerFacts, name: str, dataset: DatasetLike) -> None:
    """Check that a dataset is whole and that its columns fit the model.

    Args:
        facts: What the trainer was given.
        name: The dataset in messages.
        dataset: Any dataset.

    Raises:
        ConfigurationError: If the dataset was split by node already, or the model takes none of its columns.
    """
    _check_is_whole(facts, name, dataset)
    if not isinstance(facts.model, torch.nn.Module) or facts.overrides & MAKES_BATCHES:
        return
    check_columns(
        dataset,
        name,
        forward_columns(facts.model, facts.args.label_names),
        remove_unused=bool(facts.args.remove_unused_columns),
        passes_through=passes_columns_through(facts.data_collator) and not facts.overrides & USES_INPUTS,
    )


def _check_is_whole(facts: TrainerFacts, name: str, dataset: DatasetLike) -> None:
    """Each rank takes its part of the whole dataset; a part of a part would leave most samples out."""
    split = getattr(dataset, "_distributed", None)
    if split is not None and facts.args.world_size > 1 and not facts.overrides & MAKES_BATCHES:
        raise ConfigurationError(
            f"{name} was split by node (rank {split.rank} of {split.world_size}), but raytrainer splits a dataset "
            "between the workers itself, so most samples would never be seen. Pass the dataset without "
            "split_dataset_by_node; accelerator_config={'dispatch_batches': True} lets rank 0 read for all."
        )
