"""Which kinds of datasets there are, and what each can do.

Anything with a length and indices is read by index, a mapping of columns row by row; everything else is a stream. A
stream with ``state_dict`` and ``load_state_dict`` resumes at its position without reading earlier samples again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from torch.utils.data import Dataset, IterableDataset

from raytrainer.errors import ConfigurationError
from raytrainer.user_types import DatasetLike


class Columns(Dataset[dict[str, Any]]):
    """The rows of a mapping of columns of one length."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ConfigurationError(
                f"A dataset of columns has columns of different lengths: {lengths}. Make them equally long."
            )
        self.columns = columns
        self._length = next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}


class PlainStream(IterableDataset[Any]):
    """Any iterable as a stream. A generator can be read once, and says so when it is needed again."""

    def __init__(self, source: Iterable[Any]) -> None:
        self.source = source
        self._was_read = False

    def __iter__(self) -> Iterator[Any]:
        samples = iter(self.source)
        if samples is self.source and self._was_read:
            raise ConfigurationError(
                f"The dataset is a {type(self.source).__name__}, which can be read only once, and it is needed "
                "a second time. Pass an object whose __iter__ makes a new iterator each time, for instance "
                "datasets.IterableDataset.from_generator(function)."
            )
        self._was_read = True
        return samples


def as_dataset(dataset: Any) -> Any:
    """Return a dataset that a loader can read, for any object that was passed as a dataset."""
    if isinstance(dataset, Mapping):
        return Columns(cast("Mapping[str, Any]", dataset))
    if isinstance(dataset, Dataset) or hasattr(dataset, "__getitem__") or not isinstance(dataset, Iterable):
        return cast("Any", dataset)
    return PlainStream(cast("Iterable[Any]", dataset))


def keeps_its_place(dataset: DatasetLike) -> bool:
    """Whether a stream can resume, sample for sample, from its own ``state_dict()``.

    A ``datasets.IterableDataset`` that shuffles through a buffer cannot: its state does not hold the buffer's samples.
    """
    has_state = callable(getattr(dataset, "state_dict", None)) and callable(
        getattr(dataset, "load_state_dict", None)
    )
    return has_state and not _has_buffer(getattr(dataset, "_ex_iterable", None))


def _has_buffer(source: Any) -> bool:
    if source is None:
        return False
    if type(source).__name__ == "BufferShuffledExamplesIterable" and source.buffer_size > 1:
        return True
    inner = [getattr(source, "ex_iterable", None), *(getattr(source, "ex_iterables", None) or ())]
    return any(_has_buffer(one) for one in inner)
