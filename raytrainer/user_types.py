"""Types of the objects that users hand in: datasets, processing classes, batches.

``datasets`` and the processors of ``transformers`` are imported by type checkers only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import datasets
    from torch.utils.data import Dataset
    from transformers import (
        BaseImageProcessor,
        FeatureExtractionMixin,
        PreTrainedTokenizerBase,
        ProcessorMixin,
    )

DatasetLike: TypeAlias = "Dataset[Any] | datasets.Dataset | datasets.IterableDataset"
"""A dataset of torch (with or without a length) or of the library ``datasets``."""

ProcessingClass: TypeAlias = (
    "PreTrainedTokenizerBase | BaseImageProcessor | FeatureExtractionMixin | ProcessorMixin"
)
"""What turns raw inputs into the model's: a tokenizer, an image processor, ...; saved with the model."""

Batch: TypeAlias = Any
"""What the user's collator returns: usually a dict of tensors ``[batch, ...]``, but any structure is allowed."""
