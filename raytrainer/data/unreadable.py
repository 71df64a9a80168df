"""What is said when a micro-batch cannot be fetched: its samples, and which of them is the cause.

The error stays what it is; notes are added to it. The samples are read once more for that, one by one: the run ends
anyway, and one sample of a micro-batch is what a person looks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch.utils.data import DataLoader

from raytrainer.data.sample_ids import describe_samples, sample_ids
from raytrainer.data.streams import RankStream

_MOST = 3


def explain_unreadable(error: Exception, loader: DataLoader[Any], micro_batch: int) -> None:
    """Add to an error what is known about the samples that could not be read or collated.

    Args:
        error: Was raised by a dataset or a collator, in this process or in a loading process.
        loader: The data.
        micro_batch: Index in the epoch.
    """
    found = describe_samples(loader, micro_batch, as_read=True)
    error.add_note(f"Micro-batch {micro_batch} could not be read. {found}")
    ids = sample_ids(loader, micro_batch, as_read=True)
    if ids is None or isinstance(loader.dataset, RankStream):
        return
    cause = find_cause(loader.dataset, ids)
    if cause is not None:
        error.add_note(f"Likely cause: {cause}")


def find_cause(dataset: Any, ids: list[int]) -> str | None:
    """Read samples one by one, and describe the first that cannot be read, or how they differ.

    Args:
        dataset: Is read by index.
        ids: Positions in the dataset.
    """
    samples: list[Any] = []
    for index in ids:
        try:
            samples.append(dataset[index])
        except Exception as again:  # noqa: BLE001 - whatever the dataset raises is what is looked for
            return f"sample {index} cannot be read ({type(again).__name__}: {again})."
    if not all(isinstance(sample, Mapping) for sample in samples):
        return None
    return _difference(cast("list[Mapping[str, Any]]", samples), ids)


def _difference(samples: list[Mapping[str, Any]], ids: list[int]) -> str | None:
    """How samples differ that a collator puts into one batch."""
    names = list(dict.fromkeys(name for sample in samples for name in sample))
    for name in names:
        without = [index for sample, index in zip(samples, ids, strict=True) if sample.get(name) is None]
        if without and len(without) < len(ids):
            return f"there is no {name!r} in sample {_either(without)}, and others have it."
    uneven: list[str] = []
    for name in names:
        lengths = {index: _length(sample.get(name)) for sample, index in zip(samples, ids, strict=True)}
        known = {index: length for index, length in lengths.items() if length is not None}
        if len(set(known.values())) > 1:
            ends = (min(known, key=known.__getitem__), max(known, key=known.__getitem__))
            parts = " and ".join(f"{known[index]} in sample {index}" for index in ends)
            uneven.append(f"{name!r} has different lengths ({parts})")
    if not uneven:
        return None
    return (
        f"{', '.join(uneven)}. Tensors of one batch have the same length: pass a data_collator that pads them "
        "(DataCollatorWithPadding, for labels too DataCollatorForSeq2Seq or DataCollatorForTokenClassification), or "
        "pad and truncate them in the dataset."
    )


def _either(ids: list[int]) -> str:
    more = f" and {len(ids) - _MOST} more" if len(ids) > _MOST else ""
    return f"{', '.join(map(str, ids[:_MOST]))}{more}"


def _length(value: object) -> int | None:
    if isinstance(value, str | bytes) or not (isinstance(value, Sequence) or hasattr(value, "shape")):
        return None
    try:
        return len(cast("Sequence[object]", value))
    except TypeError:  # a tensor without dimensions
        return None
