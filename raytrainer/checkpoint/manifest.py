"""The manifest of a checkpoint: what is in it, and who wrote it, when, and for which model.

``manifest.json`` is written last. A directory with a manifest whose files have the sizes and hashes that it lists is
a committed checkpoint; any other is not. The manifest contains a hash of itself, so a damaged one counts as
none. This file never looks at the files that a manifest lists.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from raytrainer._version import __version__
from raytrainer.checkpoint.digests import ALGORITHMS, CURRENT, LENGTHS
from raytrainer.checkpoint.names import MANIFEST_NAME
from raytrainer.checkpoint.regular_files import read_regular
from raytrainer.errors import CheckpointError

FORMAT = 2
"""Of new manifests. The first one knew SHA-256 only, and versions of then read no other."""
FORMATS = (1, FORMAT)
"""Those that are read."""
_LONGEST_NAME = 4000
"""Of paths on Linux, about [bytes]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """One file of a checkpoint."""

    size: int
    """[bytes]"""
    digest: str
    """Hexadecimal digits of the hash of its content."""
    algorithm: str = CURRENT
    """By which it is hashed; see ``digests``."""

    def to_json(self) -> dict[str, Any]:
        """Its entry in a manifest: the hash is called by its algorithm."""
        return {"size": self.size, self.algorithm: self.digest}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> FileRecord:
        """Read an entry that ``_is_record`` accepts."""
        algorithm = next(name for name in entry if name in ALGORITHMS)
        return cls(size=entry["size"], digest=entry[algorithm], algorithm=algorithm)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFacts:
    """What the loop knows about a checkpoint that it saves."""

    epoch: float
    samples_consumed: int
    """Samples that the run consumed so far over all ranks."""
    global_batch_size: int
    """Samples of one optimizer step over all ranks."""
    model_signature: str
    """See ``model_match.model_signature``."""
    continues: tuple[str, ...] = ()
    """The runs that the run goes on with; see ``ownership``."""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    """Versions beyond those of Python, torch, transformers and raytrainer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The content of ``manifest.json``."""

    step: int
    epoch: float
    world_size: int
    samples_consumed: int
    global_batch_size: int
    run_id: str
    """The ``train()`` call that wrote it."""
    attempt: int
    files: dict[str, FileRecord]
    """By path in the checkpoint, with ``/`` between folders."""
    versions: dict[str, str]
    created_at: str
    """UTC, ISO 8601."""
    model_signature: str
    continues: tuple[str, ...] = ()
    """The runs that the run goes on with; see ``ownership``."""

    @property
    def saved_at(self) -> float:
        """When it was saved [s since the epoch]."""
        return datetime.datetime.fromisoformat(self.created_at).timestamp()

    @property
    def owners(self) -> frozenset[str]:
        """The run that wrote it and those that it goes on with."""
        return frozenset((self.run_id, *self.continues))

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        body: dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(self)}
        body["files"] = {name: record.to_json() for name, record in self.files.items()}
        return json.dumps({**body, "digest": digest_of(body)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the text of a ``manifest.json``.

        Raises:
            ValueError: If it is not the text that ``to_json`` gave; says what is wrong.
        """
        try:
            found: Any = json.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__} where an object was expected")  # noqa: TRY004
        body = cast("dict[str, Any]", found)
        digest = body.pop("digest", None)
        if digest != digest_of(body):
            raise ValueError("its content does not match its own hash")
        if body.pop("format", None) not in FORMATS:
            formats = " and ".join(map(str, FORMATS))
            raise ValueError(f"its format is none of those that this version reads, {formats}")
        _check_fields(body)
        files = {_checked(name): FileRecord.from_json(record) for name, record in body.pop("files").items()}
        return cls(files=files, continues=tuple(body.pop("continues", ())), **body)


def read_manifest(checkpoint: Path) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    path = checkpoint / MANIFEST_NAME
    return manifest_from(lambda: read_regular(path), checkpoint)


def manifest_from(read: Callable[[], str], checkpoint: object) -> Manifest:
    """Read the manifest of a checkpoint, wherever it is.

    Args:
        read: Returns its text.
        checkpoint: Where the checkpoint is, for messages.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    try:
        return Manifest.from_json(read())
    except FileNotFoundError:
        raise CheckpointError(
            f"{checkpoint} has no {MANIFEST_NAME}, so it was never committed, or raytrainer did not write it."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint}/{MANIFEST_NAME} cannot be read as a manifest: {error}"
        ) from error


def current_versions() -> dict[str, str]:
    """The versions of what decides a checkpoint's content and how it is read."""
    versions = {"python": platform.python_version(), "raytrainer": __version__}
    return versions | {package: _installed(package) for package in ("torch", "transformers")}


@functools.cache
def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def digest_of(body: dict[str, Any]) -> str:
    """The hash of a manifest's content."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _check_fields(body: Mapping[str, Any]) -> None:
    """Check names and types of what was read; its hash says only that it is as it was written, not by whom."""
    unknown = sorted(body.keys() - _FIELDS.keys())
    missing = sorted(_FIELDS.keys() - body.keys() - {"continues"})
    if unknown or missing:
        said = [f"unknown {name}" for name in unknown] + [f"no {name}" for name in missing]
        raise ValueError(f"it does not have the fields of a manifest ({', '.join(said)})")
    for name, value in body.items():
        expected, is_valid = _FIELDS[name]
        if not is_valid(value):
            raise ValueError(f"its {name} is {_shortened(value)}, expected {expected}")


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.datetime.fromisoformat(value).timestamp() > 0
    except (ValueError, OverflowError):
        return False


def _are_versions(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, cast("dict[str, object]", value).values()))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, cast("list[object]", value)))


def _are_files(value: object) -> bool:
    return isinstance(value, dict) and value != {} and all(map(_is_record, cast("Any", value).values()))


def _is_record(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    record = cast("dict[str, object]", value)
    algorithms = record.keys() - {"size"}
    if len(record) != 2 or len(algorithms) != 1 or not algorithms <= ALGORITHMS.keys():
        return False
    algorithm = algorithms.pop()
    digest = record[algorithm]
    return (
        _is_count(record["size"])
        and isinstance(digest, str)
        and re.fullmatch(r"[0-9a-f]+", digest) is not None
        and len(digest) == LENGTHS[algorithm]
    )


_FIELDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "step": ("a whole number", _is_count),
    "epoch": ("a number", _is_number),
    "world_size": ("a whole number", _is_count),
    "samples_consumed": ("a whole number", _is_count),
    "global_batch_size": ("a whole number", _is_count),
    "run_id": ("a text", _is_text),
    "attempt": ("a whole number", _is_count),
    "files": (
        f"files, each with its size and the hexadecimal digits of one hash ({', '.join(ALGORITHMS)})",
        _are_files,
    ),
    "versions": ("versions by name", _are_versions),
    "created_at": ("a time in ISO 8601", _is_time),
    "model_signature": ("a text", _is_text),
    "continues": ("a list of texts", _are_texts),
}
"""Name -> what is expected, for messages, and the check."""


def _checked(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"it lists {name!r}, which is outside the checkpoint")
    if "\0" in name or len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        raise ValueError(f"it lists {_shortened(name)}, which no file can be called")
    return name
