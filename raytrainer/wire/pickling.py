"""How objects travel between driver and workers: one pickle, and every large buffer beside it.

Weights inside a pickle would be copied into each process. So the storages of tensors are taken out of the pickle, each
once (tied weights stay tied), and become plain byte arrays. Ray keeps those in shared memory, where all workers of a
node read the same pages. Tensors arrive on the CPU, whatever device they came from: a device of one process means
nothing in another.

An object that the other side has already, such as the trainer that a callback refers to, can travel as a name; one that
was stored for many processes (``wire/shared_objects.py``) travels as its reference.

Classes and functions of ``__main__`` travel by value, and so do those of modules that no other process can import
(``wire/importable.py``). This file never imports ray, and imports torch only when the other side has used it.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import cloudpickle
import numpy as np
import numpy.typing as npt

from raytrainer.wire.hub_token import has_token_field, reduce_without_token
from raytrainer.wire.importable import ModulesOfPickle
from raytrainer.wire.module_sources import Sources
from raytrainer.wire.search_path import SearchPath, search_path
from raytrainer.wire.shared_objects import StoredObject, fetch, where_is

Bytes: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Shipped:
    """An object in transport form."""

    pickle: bytes
    """Everything but the large buffers."""
    storages: list[Bytes]
    """The bytes of each tensor storage, uint8."""
    buffers: list[tuple[Bytes, bool]]
    """Other buffers that support it (numpy, Arrow), uint8, and whether they may be written to."""
    search_path: SearchPath = field(default_factory=SearchPath)
    """Where the modules that the pickle names were found."""
    modules: tuple[str, ...] = ()
    """Modules of installed packages that the pickle names."""
    sources: Sources | None = None
    """Files of those modules, for machines that do not have them."""
    stored: dict[str, StoredObject] = field(default_factory=dict[str, StoredObject])
    """What the pickle names, because it was stored before."""

    @property
    def num_bytes(self) -> int:
        """Size of all parts."""
        return (
            len(self.pickle) + sum(a.nbytes for a in self.storages) + sum(a.nbytes for a, _ in self.buffers)
        )


def pack(value: object, known: Mapping[int, str] | None = None) -> Shipped:
    """Bring an object into transport form. Buffers are views: send them before the object changes.

    Args:
        value: The object.
        known: ``id()`` of each object that the other side has already -> the name by which it finds it there.

    Raises:
        Exception: Whatever the object raises when it cannot be pickled.
    """
    file = io.BytesIO()
    buffers: list[tuple[Bytes, bool]] = []

    def take(buffer: pickle.PickleBuffer) -> None:
        raw = buffer.raw()
        buffers.append((np.frombuffer(raw, dtype=np.uint8), not raw.readonly))

    modules = ModulesOfPickle()
    pickler = _Pickler(file, take, modules, known or {})
    try:
        pickler.dump(value)
    finally:
        modules.forget()
    return Shipped(
        pickle=file.getvalue(),
        storages=pickler.storages,
        buffers=buffers,
        search_path=search_path(modules.directories),
        modules=modules.installed,
        stored=pickler.stored,
    )


def unpack(shipped: Shipped, find: Callable[[str], object] | None = None) -> Any:
    """Rebuild an object. Writable buffers are copied; read-only ones stay shared.

    Args:
        shipped: What ``pack`` made.
        find: Gives the object of a name that ``pack`` was told about.
    """
    buffers = [array.copy() if is_writable else array for array, is_writable in shipped.buffers]
    return _Unpickler(io.BytesIO(shipped.pickle), shipped, buffers, find).load()


class _Pickler(cloudpickle.Pickler):
    def __init__(
        self,
        file: io.BytesIO,
        take: Callable[[pickle.PickleBuffer], None],
        modules: ModulesOfPickle,
        known: Mapping[int, str],
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=take)
        self._modules = modules
        self._known = known
        self.stored: dict[str, StoredObject] = {}
        self.storages: list[Bytes] = []
        self._index: dict[int, int] = {}
        self._kept: list[Any] = []  # as long as a storage lives, its address is its own

    def reducer_override(self, obj: Any) -> Any:
        self._modules.see(obj)
        if has_token_field(obj):
            return reduce_without_token(obj)
        return cast("Any", super()).reducer_override(obj)

    def persistent_id(self, obj: Any) -> tuple[int, str | None] | str | None:
        if self._known and (name := self._known.get(id(obj))) is not None:
            return name
        if (stored := where_is(obj)) is not None:
            self.stored[stored.name] = stored
            return stored.name
        torch = sys.modules.get("torch")
        # An import of torch may be under way in another thread; nobody has a storage before it is done.
        if torch is None or not hasattr(torch, "is_storage") or not torch.is_storage(obj):
            return None
        dtype = None
        storage = obj
        if isinstance(obj, torch.storage.TypedStorage):
            dtype = str(obj.dtype).removeprefix("torch.")
            storage = obj._untyped_storage
        key = storage._cdata
        if key not in self._index:
            self._index[key] = len(self.storages)
            self._kept.append(storage)
            self.storages.append(_bytes_of(storage, torch))
        return self._index[key], dtype


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        file: io.BytesIO,
        shipped: Shipped,
        buffers: list[Bytes],
        find: Callable[[str], object] | None,
    ) -> None:
        super().__init__(file, buffers=buffers)
        self._arrays = shipped.storages
        self._stored = shipped.stored
        self._find = find
        self._storages: dict[int, Any] = {}

    def persistent_load(self, pid: tuple[int, str | None] | str) -> Any:
        if isinstance(pid, str):
            if pid in self._stored:
                return fetch(self._stored[pid])
            assert self._find is not None, "whoever names objects tells where to find them"
            return self._find(pid)
        import torch

        index, dtype = pid
        if index not in self._storages:
            # A copy: the array is shared memory that nobody may write to.
            copy = torch.from_numpy(self._arrays[index].copy())
            self._storages[index] = copy.untyped_storage()
        storage = self._storages[index]
        if dtype is None:
            return storage
        return torch.storage.TypedStorage(wrap_storage=storage, dtype=getattr(torch, dtype), _internal=True)


def _bytes_of(storage: Any, torch: Any) -> Bytes:
    on_cpu = storage if storage.device.type == "cpu" else storage.cpu()
    return torch.empty(0, dtype=torch.uint8).set_(on_cpu).numpy()
