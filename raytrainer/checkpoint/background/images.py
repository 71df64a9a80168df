"""What a file that is written beside training consists of, byte by byte, before its tensors are copied anywhere.

A rank makes the text of a safetensors header, and the skeleton of a file of ``torch.save``: everything in it but the
values of tensors. The process that writes puts the values in between, so it needs neither torch nor safetensors, starts
in a tenth of a second, and passes over each byte once. Checksums within a file of ``torch.save`` are those of torch.
"""

from __future__ import annotations

import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from raytrainer.checkpoint.background.messages import CheckSum, Identity, Part, Place, Summed

_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
"""What safetensors calls them, in the order in which its files have them from the end to the beginning."""
_ORDER = {dtype: position for position, dtype in enumerate(_DTYPES)}
_IDENTITY = ".data/serialization_id"
_HEAD = 30
"""Of an entry of a zip file, without its name [bytes]."""
_LINE = 46
"""Of an entry in the directory at the end, without its name [bytes]."""
_SUM_IN_LINE = 16
"""Where its checksum is there [bytes]."""
_MARK = 4
"""Before the checksum that follows the content of an entry [bytes]."""
_SUM = 4
"""[bytes]"""


def has_header(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether ``header_of`` knows all dtypes."""
    return all(tensor.dtype in _DTYPES for tensor in tensors.values())


def in_file_order(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    """The tensors ``[...]`` as safetensors orders them: the widest dtypes first, by name within a dtype."""
    return sorted(tensors.items(), key=lambda item: (-_ORDER[item[1].dtype], item[0]))


def header_of(tensors: Sequence[tuple[str, torch.Tensor]], metadata: Mapping[str, str]) -> bytes:
    """What a safetensors file begins with.

    Args:
        tensors: Names and tensors ``[...]``, in the file's order.
        metadata: Text in the header.
    """
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        table[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def storages_of(state: object) -> list[Any]:
    """The untyped storages of a state, in the order in which a pickle comes to them; one for several views."""
    pickler = _Pickler()
    pickler.dump(state)
    return list(pickler.found.values())


class _Pickler(pickle.Pickler):
    """Comes to storages as that of ``torch.save`` does; the pickle itself is not used."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), protocol=2)
        self.found: dict[int, Any] = {}
        """By address of the object: a storage, kept alive so that no other one gets it."""

    def persistent_id(self, obj: object) -> object:
        if isinstance(obj, torch.storage.TypedStorage):
            untyped: Any = obj._untyped_storage
        elif isinstance(obj, torch.UntypedStorage):
            untyped = obj
        else:
            return None
        self.found.setdefault(untyped._cdata, untyped)
        return "storage"


def skeleton_of(
    state: object, name: str, places: Sequence[Place], check: Callable[[Path], None]
) -> list[Part]:
    """A file of ``torch.save`` whose storages are somewhere else.

    Args:
        state: What is saved.
        name: Of the file, after which the archive in it is called.
        places: Of ``storages_of(state)``.
        check: Raises if the file could not be read back.

    Returns:
        The parts of the file.
    """
    with tempfile.TemporaryDirectory(prefix="raytrainer-save-") as directory:
        path = Path(directory, name)
        with torch.serialization.skip_data():  # it has holes, so it takes next to no space
            torch.save(state, path)
        check(path)
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            return _parts(archive, file, places)


def _parts(archive: zipfile.ZipFile, file: BinaryIO, places: Sequence[Place]) -> list[Part]:
    """Cut a skeleton where values and checksums belong."""
    cuts: list[tuple[int, int, Part]] = []
    """Where a part begins, how many bytes of the skeleton it replaces, and the part."""
    sums: list[int | CheckSum] = []
    line = archive.start_dir
    for entry in archive.infolist():
        begin = _begin(file, entry)
        folder, _, key = entry.filename.partition("/")[2].rpartition("/")
        number: int | None = None
        if entry.filename.endswith(_IDENTITY):
            number = Identity.NUMBER
            prefix = archive.read(entry)[: Identity.SIZE // 2]
            cuts.append((begin, Identity.SIZE, Identity(prefix=prefix, sums=tuple(sums))))
        elif folder == "data" and entry.file_size:
            number = int(key)
            assert places[number].size == entry.file_size, "pickles came to the storages in different orders"
            cuts.append((begin, entry.file_size, Summed(number=number, place=places[number])))
        if number is not None:
            cuts.append((begin + entry.file_size + _MARK, _SUM, CheckSum(number=number)))
            cuts.append((line + _SUM_IN_LINE, _SUM, CheckSum(number=number)))
        if entry.file_size:  # torch leaves the others out
            sums.append(entry.CRC if number is None else CheckSum(number=number))
        line += _LINE + len(entry.orig_filename.encode()) + len(entry.extra) + len(entry.comment)
    return _with_rest(file, sorted(cuts, key=lambda cut: cut[0]))


def _begin(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where the content of an entry begins."""
    file.seek(entry.header_offset)
    head = file.read(_HEAD)
    lengths = (int.from_bytes(head[at : at + 2], "little") for at in (_HEAD - 4, _HEAD - 2))
    return entry.header_offset + _HEAD + sum(lengths)


def _with_rest(file: BinaryIO, cuts: Sequence[tuple[int, int, Part]]) -> list[Part]:
    """All parts of a file, of which some replace what is there."""
    parts: list[Part] = []
    at = 0
    for begin, size, part in cuts:
        file.seek(at)
        parts += [file.read(begin - at), part]
        at = begin + size
    file.seek(at)
    parts.append(file.read())
    return parts
