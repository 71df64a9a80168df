"""Whether an object is still what it was: a digest of its content that costs little.

An object is pickled into a hash instead of a file. What has a version of its own is not read: a dataset of ``datasets``
has a fingerprint, and a tokenizer's vocabulary only ever grows. An object with very many parts is not read in whole
either: of each long list in it, all items are compared by identity and some of them by content (``Reading``).

This file never imports ray, and uses torch only when the process does.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import pickle
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import cloudpickle
import numpy as np

MAX_OBJECTS = 100_000
"""Objects up to which a part is read in whole; about 50 ms."""
_FEW = 16
SHORT = 64
"""Items up to which a list of a larger object is read in whole, and that are read of a longer one."""


class Reading(enum.Enum):
    """How much of an object was read."""

    WHOLE = enum.auto()
    IDENTITY = enum.auto()
    """Of long lists: which objects are in them, and the content of some."""
    SAMPLE = enum.auto()
    """Of long lists: the content of some items; the object makes others each time that it is pickled."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A digest, equal as long as the object has not changed."""

    digest: str
    reading: Reading
    names: frozenset[str] = frozenset()
    """Of the known objects that it refers to."""


def fingerprint(
    value: object, known: Mapping[int, str] | None = None, *, like: Fingerprint | None = None
) -> Fingerprint:
    """Digest the content of an object.

    Args:
        value: The object.
        known: ``id()`` of each object that is digested elsewhere -> its name, which stands for it here.
        like: An earlier fingerprint of the same part: a large one is read like then.

    Raises:
        Exception: Whatever the object raises when it cannot be pickled.
    """
    if like is not None and like.reading is not Reading.WHOLE:
        return _read(value, known, like.reading)
    with contextlib.suppress(_TooManyObjectsError):
        return _read(value, known, Reading.WHOLE)
    found = _read(value, known, Reading.IDENTITY)
    if found == _read(value, known, Reading.IDENTITY):
        return found
    return _read(value, known, Reading.SAMPLE)


def tensor_digest(tensor: Any) -> tuple[str, tuple[int, ...], int]:
    """Digest the type, the shape and the bytes of a torch tensor, whatever device it is on."""
    torch = sys.modules["torch"]
    flat = tensor.detach()
    if flat.device.type == "meta":
        return str(flat.dtype), tuple(flat.shape), 0
    data = flat.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return str(flat.dtype), tuple(flat.shape), zlib.crc32(data)


class _TooManyObjectsError(Exception):
    """The object is too large to be read in whole."""


class _Hash:
    """A file that keeps only a hash of what is written to it."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)


def _read(value: object, known: Mapping[int, str] | None, reading: Reading) -> Fingerprint:
    file = _Hash()

    def take(buffer: pickle.PickleBuffer) -> None:
        file.write(zlib.crc32(buffer.raw()).to_bytes(4, "little"))

    digester = _Digester(file, take, known or {}, reading)
    digester.dump(value)
    return Fingerprint(file.hash.hexdigest(), reading, frozenset(digester.names))


class _Digester(cloudpickle.Pickler):
    def __init__(
        self,
        file: _Hash,
        take: Callable[[pickle.PickleBuffer], None],
        known: Mapping[int, str],
        reading: Reading,
    ) -> None:
        super().__init__(cast("Any", file), protocol=5, buffer_callback=take)
        self._known = known
        self._reading = reading
        self._count = 0
        self.names: set[str] = set()
        self._storages: dict[int, tuple[Any, int]] = {}

    def persistent_id(self, obj: Any) -> object | None:
        # Called for every object, so the frequent ones come first.
        self._count += 1
        if self._count > MAX_OBJECTS and self._reading is Reading.WHOLE:
            raise _TooManyObjectsError
        kind = cast("type[object]", type(obj))
        if kind is int or kind is str or kind is float or obj is None or kind is bool:
            return None
        if (name := self._known.get(id(obj))) is not None:
            self.names.add(name)
            return name
        if kind is list or kind is tuple or kind is dict:
            return self._container(obj)
        return self._shortcut(obj, kind)

    def _container(self, obj: Any) -> object | None:
        if len(obj) < _FEW:
            return None
        kind = cast("type[object]", type(obj))
        if kind is list and (numbers := _numbers(obj)) is not None:
            self._count += len(obj) // SHORT
            return numbers
        return self._sample(obj) if self._reading is not Reading.WHOLE and len(obj) > SHORT else None

    def _shortcut(self, obj: Any, kind: type) -> str | None:
        shortcut = _SHORTCUTS.get((kind.__module__, kind.__name__))
        if shortcut is not None:
            return shortcut(obj)
        torch = sys.modules.get("torch")
        if torch is None or not hasattr(torch, "is_storage"):
            return None
        if kind is torch.Tensor and obj.layout is torch.strided:
            self._count += 4
            return f"tensor {obj.requires_grad} {tensor_digest(obj)}"
        return self._storage(obj, torch) if torch.is_storage(obj) else None

    def _sample(self, items: Any) -> object:
        """What stands for a long list: which objects are in it, and the content of a few that are evenly spaced."""
        step = -(-len(items) // SHORT)
        if isinstance(items, dict):
            entries = cast("dict[object, object]", items)
            keys = list(islice(entries, 0, None, step))
            return f"dict {len(entries)} {self._ids(entries.values())}", keys, [entries[key] for key in keys]
        return f"{type(items).__name__} {len(items)} {self._ids(items)}", list(items[::step])

    def _ids(self, items: Iterable[object]) -> int:
        if self._reading is not Reading.IDENTITY:
            return 0
        return zlib.crc32(np.fromiter(map(id, items), dtype=np.uint64).tobytes())

    def _storage(self, obj: Any, torch: Any) -> str:
        untyped = obj._untyped_storage if isinstance(obj, torch.storage.TypedStorage) else obj
        key = untyped._cdata
        if key not in self._storages:
            # The storage is kept: as long as it lives, its address is its own.
            whole = torch.empty(0, dtype=torch.uint8, device=untyped.device).set_(untyped)
            self._storages[key] = untyped, tensor_digest(whole)[2]
        return f"storage {getattr(obj, 'dtype', None)} {self._storages[key][1]}"


def _numbers(items: list[Any]) -> str | None:
    """What stands for a list of whole numbers, such as tokens; None for any other list."""
    try:
        return f"numbers {len(items)} {zlib.crc32(array('q', items))}"
    except (TypeError, OverflowError):
        return None


def _of_dataset(dataset: Any) -> str:
    return f"dataset {dataset._fingerprint}"


def _of_tokenizer(tokenizer: Any) -> str:
    """All but the vocabulary, which takes a tenth of a second to read."""
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor, tokenizer.decoder)
    states: list[object] = [part.__getstate__() if part is not None else None for part in parts]
    added = sorted((key, str(token)) for key, token in tokenizer.get_added_tokens_decoder().items())
    return (
        f"tokenizer {tokenizer.get_vocab_size()} {tokenizer.padding} {tokenizer.truncation} {states} {added}"
    )


_SHORTCUTS: dict[tuple[str, str], Callable[[Any], str]] = {
    ("datasets.arrow_dataset", "Dataset"): _of_dataset,
    ("tokenizers", "Tokenizer"): _of_tokenizer,
}
"""Classes whose objects know what they hold -> what stands for one."""
