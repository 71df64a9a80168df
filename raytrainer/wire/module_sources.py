"""Source files that go to machines where the driver's directories do not exist.

Sent are the modules that the driver has loaded from outside the installed packages, packages as a whole, and what lies
beside the script, which may import it later. A machine that has the same files in the same place uses those; another
one gets a copy. What Ray itself ships (``ray job submit --working-dir``, ``py_modules``) is left to it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from raytrainer.wire.importable import location
from raytrainer.wire.search_path import is_installed

MAX_PACKAGE_BYTES = 64 << 20
"""A larger package is not sent."""
MAX_DATA_BYTES = 1 << 20
"""A larger file that is not code is not sent."""
_CODE = (".py", *EXTENSION_SUFFIXES)
_OWN_PACKAGE = __name__.partition(".")[0]
_SENT_BY_RAY = (
    f"{os.sep}runtime_resources{os.sep}working_dir_files{os.sep}",
    f"{os.sep}runtime_resources{os.sep}py_modules_files{os.sep}",
)


@dataclass(frozen=True)
class Sources:
    """Files of modules."""

    files: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict[str, Mapping[str, bytes]])
    """Directory that is searched for modules -> path of a file below it -> its content."""


def loaded_sources() -> Sources:
    """The files of the modules that other machines may lack."""
    files: dict[str, dict[str, bytes]] = {}
    for place in dict.fromkeys([*_loaded_places(), *_places_beside_script()]):
        if _size(place) > MAX_PACKAGE_BYTES:
            continue
        root = os.path.dirname(place)
        for file in _files(place):
            if (content := _read(file)) is not None:
                files.setdefault(root, {})[os.path.relpath(file, root)] = content
    return Sources(files=files)


def place_sources(sources: Sources, directory: str) -> dict[str, str]:
    """Write copies of the files that this machine does not have.

    Args:
        sources: The files.
        directory: Where copies go. Processes of one machine may share it.

    Returns:
        Directory of the driver -> its copy here, for directories that do not have the same files here.
    """
    return {
        root: _write(files, directory)
        for root, files in sources.files.items()
        if any(_read(os.path.join(root, name)) != content for name, content in files.items())
    }


def why_not_sent(name: str) -> str | None:
    """Why a loaded top-level module is not among the sources; None if it is, or is not loaded from a file."""
    module = sys.modules.get(name)
    place = location(module)
    if place is None or (size := _size(place)) <= MAX_PACKAGE_BYTES:
        return None
    return (
        f"{place} has {size >> 20} MiB, and packages of more than {MAX_PACKAGE_BYTES >> 20} MiB are not sent"
    )


def _loaded_places() -> Iterator[str]:
    """Files of modules, and directories of packages, that are loaded and not installed."""
    for name, module in sorted(sys.modules.items()):
        if "." in name or name in ("__main__", "__mp_main__", _OWN_PACKAGE):
            continue
        place = location(module)
        if place is not None and _is_to_be_sent(place):
            yield place


def _places_beside_script() -> Iterator[str]:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    directory = os.path.dirname(os.path.abspath(script)) if script else ""
    if directory not in sys.path or not _is_to_be_sent(directory):
        return
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        is_package = entry.is_dir() and os.path.exists(os.path.join(entry.path, "__init__.py"))
        if entry.name != _OWN_PACKAGE and (is_package or entry.name.endswith(".py")):
            yield entry.path


def _is_to_be_sent(place: str) -> bool:
    return (
        not is_installed(place) and os.path.exists(place) and not any(part in place for part in _SENT_BY_RAY)
    )


def _size(place: str) -> int:
    return sum(os.path.getsize(file) for file in _files(place))


def _files(place: str) -> Iterator[str]:
    """The files of a module or package. A directory that is no package of its own may hold anything: its code alone."""
    if os.path.isfile(place):
        yield place
        return
    is_package = os.path.exists(os.path.join(place, "__init__.py"))
    for directory, below, names in os.walk(place):
        below[:] = sorted(name for name in below if name != "__pycache__" and not name.startswith("."))
        for name in sorted(names):
            file = os.path.join(directory, name)
            is_data = is_package and not name.startswith(".") and not name.endswith(".pyc")
            if not os.path.isfile(file):
                continue
            if name.endswith(_CODE) or (is_data and os.path.getsize(file) <= MAX_DATA_BYTES):
                yield file


def _read(file: str) -> bytes | None:
    """The content of a file; None if there is none."""
    try:
        return Path(file).read_bytes()
    except OSError:
        return None


def _write(files: Mapping[str, bytes], directory: str) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    target = Path(directory, digest.hexdigest()[:16])
    if target.exists():
        return str(target)
    Path(directory).mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=directory))
    for name, content in files.items():
        file = unfinished / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    try:
        unfinished.rename(target)
    except OSError:  # Another process of this machine was faster.
        shutil.rmtree(unfinished)
        if not target.exists():
            raise
    return str(target)
