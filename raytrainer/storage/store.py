"""What a run asks of an object store: put, get, list, delete, and whether something exists.

Names are relative to the URI that the store was opened for, with ``/`` between folders. An object appears completely
or not at all, and there is no rename. Requests that fail are repeated (``retry``). This file decides nothing about
what is stored.
"""

from __future__ import annotations

import copy
import functools
import importlib
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from raytrainer.storage.filesystems import open_filesystem
from raytrainer.storage.locations import join, without_options
from raytrainer.storage.retry import DURING_A_RUN, Patience, repeated

T = TypeVar("T")

_CHUNK_BYTES = 16 * 1024 * 1024
_TRANSFERS = 4
"""Objects that a process sends or receives at the same time."""
_OBJECT_STORES = ("s3", "gcs", "abfs")
"""File systems that need no folder to be made."""


class ObjectStore:
    """The objects below a URI.

    Args:
        uri: Of a folder, which need not exist.
        patience: How long a failing request is repeated.

    Raises:
        ConfigurationError: If the URI cannot be opened.
    """

    def __init__(self, uri: str, patience: Patience = DURING_A_RUN) -> None:
        self.uri = uri
        self.patience = patience
        self._system: Any
        self._system, self._root = open_filesystem(uri)
        type_name: str = self._system.type_name
        self._makes_folders = type_name not in _OBJECT_STORES
        self._is_in_python = type_name.startswith("py::")

    def put(self, path: Path, name: str) -> None:
        """Write a file of this machine to an object; replaces one of this name."""

        def send() -> None:
            with path.open("rb") as source, self._system.open_output_stream(self._path(name)) as target:
                while chunk := source.read(_CHUNK_BYTES):
                    target.write(chunk)

        self._make_folder_of(name)
        self._repeat("Writing", name, send)

    def put_text(self, name: str, text: str) -> None:
        """Write a small object; replaces one of this name."""

        def send() -> None:
            with self._system.open_output_stream(self._path(name)) as target:
                target.write(text.encode())

        self._make_folder_of(name)
        self._repeat("Writing", name, send)

    def get(self, name: str, path: Path) -> None:
        """Read an object into a file of this machine, whose folder is made.

        Raises:
            FileNotFoundError: If there is no such object.
        """

        def receive() -> None:
            with self._system.open_input_stream(self._path(name)) as source, path.open("wb") as target:
                while chunk := source.read(_CHUNK_BYTES):
                    target.write(chunk)

        path.parent.mkdir(parents=True, exist_ok=True)
        self._repeat("Reading", name, receive)

    def get_text(self, name: str) -> str:
        """Read a small object.

        Raises:
            FileNotFoundError: If there is no such object.
        """

        def receive() -> str:
            source: Any
            with self._system.open_input_stream(self._path(name)) as source:
                return source.read().decode()

        return self._repeat("Reading", name, receive)

    def put_all(self, files: Mapping[str, Path]) -> None:
        """Write files to objects, several at the same time."""
        _at_once(lambda name: self.put(files[name], name), files)

    def get_all(self, files: Mapping[str, Path]) -> None:
        """Read objects into files, several at the same time."""
        _at_once(lambda name: self.get(name, files[name]), files)

    def list(self, folder: str = "") -> dict[str, int]:
        """The objects in a folder and below: name relative to the folder -> size [bytes]."""
        fs = _pyarrow_fs()
        base = self._path(folder)
        selector = fs.FileSelector(base, allow_not_found=True, recursive=True)
        found: list[Any] = self._repeat("Listing", folder, lambda: self._system.get_file_info(selector))
        return {
            info.path[len(base) :].lstrip("/"): info.size
            for info in found
            if info.type == fs.FileType.File and info.path != base
        }

    def folders(self) -> list[str]:
        """The names of the folders right below the URI."""
        fs = _pyarrow_fs()
        selector = fs.FileSelector(self._root, allow_not_found=True)
        found: list[Any] = self._repeat("Listing", "", lambda: self._system.get_file_info(selector))
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""
        fs = _pyarrow_fs()
        info: Any = self._repeat("Looking up", name, lambda: self._system.get_file_info(self._path(name)))
        return info.type == fs.FileType.File

    def age_of(self, name: str) -> float | None:
        """For how long an object has been as it is [s], by the clocks of the store and of this machine.

        None if there is no such object, or the store has no times.
        """
        info: Any = self._repeat("Looking up", name, lambda: self._system.get_file_info(self._path(name)))
        return None if info.mtime is None else time.time() - info.mtime.timestamp()

    def missing_bucket(self) -> str | None:
        """The name of the bucket, if S3 says that there is none; where it may not be asked, None."""
        if self._system.type_name != "s3":
            return None
        bucket = self._root.partition("/")[0]
        try:
            info: Any = self._system.get_file_info(bucket)
        except OSError:  # Whoever may list below a prefix may not always ask for the bucket.
            return None
        return bucket if info.type == _pyarrow_fs().FileType.NotFound else None

    def delete(self, name: str) -> None:
        """Delete an object; one that does not exist is deleted."""

        def remove() -> None:
            try:
                self._system.delete_file(self._path(name))
            except FileNotFoundError:
                return

        self._repeat("Deleting", name, remove)

    def delete_all(self, names: Iterable[str]) -> None:
        """Delete objects, several at the same time."""
        _at_once(self.delete, names)

    def delete_folder(self, folder: str) -> None:
        """Delete everything in a folder and below, in no order; one that does not exist is deleted."""

        def remove() -> None:
            try:
                self._system.delete_dir(self._path(folder))
            except FileNotFoundError:
                return

        self._repeat("Deleting", folder, remove)

    def copy(self, name: str, to: str) -> None:
        """Copy an object. Its content goes through this machine, because stores limit the size of their own copies."""

        def send() -> None:
            with (
                self._system.open_input_stream(self._path(name)) as source,
                self._system.open_output_stream(self._path(to)) as target,
            ):
                while chunk := source.read(_CHUNK_BYTES):
                    target.write(chunk)

        self._make_folder_of(to)
        self._repeat("Copying", name, send)

    def get_range(self, name: str, start: int, count: int) -> bytes:
        """Read a part of an object; shorter if the object ends before.

        Args:
            name: The object.
            start: Offset of the first byte.
            count: Number of bytes.
        """

        def receive() -> bytes:
            with self._system.open_input_file(self._path(name)) as source:
                return source.read_at(count, start)

        return self._repeat("Reading", name, receive)

    def with_patience(self, patience: Patience) -> ObjectStore:
        """The same objects, with requests that are repeated for another time."""
        other = copy.copy(self)
        other.patience = patience
        return other

    def location(self, name: str = "") -> str:
        """The URI of an object or a folder."""
        return join(self.uri, name) if name else join(self.uri)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _make_folder_of(self, name: str) -> None:
        if self._makes_folders:
            folder = self._path(name).rpartition("/")[0]
            self._repeat(
                "Making the folder of", name, lambda: self._system.create_dir(folder, recursive=True)
            )

    def _repeat(self, doing: str, name: str, request: Callable[[], T]) -> T:
        attempt = functools.partial(_with_plain_errors, request) if self._is_in_python else request
        return repeated(f"{doing} {without_options(self.location(name))}", attempt, self.patience)


def _with_plain_errors(request: Callable[[], T]) -> T:
    """Make a request of a file system of fsspec, whose clients have errors of their own for what the store answers."""
    try:
        return request()
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _at_once(request: Callable[[str], None], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="raytrainer-transfer") as pool:
        futures = [pool.submit(request, name) for name in names]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()


def _pyarrow_fs() -> Any:
    return importlib.import_module("pyarrow.fs")  # has no types
