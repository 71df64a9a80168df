"""The manifest of a checkpoint: what is in it, and who wrote it, when, and for which model.

``manifest.json`` is written last. A directory with a manifest whose files have the sizes and hashes that it lists is
a committed checkpoint; any other is not. The manifest contains a hash of itself, so a damaged one counts as
none. This file never looks at the files that a manifest lists.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from raytrainer._version import __version__
from raytrainer.checkpoint.names import MANIFEST_NAME
from raytrainer.errors import CheckpointError

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """One file of a checkpoint."""

    size: int
    """[bytes]"""
    sha256: str


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

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        body = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps({**body, "digest": _digest(body)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the text of a ``manifest.json``.

        Raises:
            ValueError: If it is not the text that ``to_json`` gave; says what is wrong.
        """
        found: Any = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__} where an object was expected")  # noqa: TRY004
        body = cast("dict[str, Any]", found)
        digest = body.pop("digest", None)
        if digest != _digest(body):
            raise ValueError("its content does not match its own hash")
        if body.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}, the only one that this version reads")
        try:
            files = {_checked(name): FileRecord(**record) for name, record in body.pop("files").items()}
            return cls(files=files, **body)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it does not have the fields of a manifest ({error})") from error


def read_manifest(checkpoint: Path) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    path = checkpoint / MANIFEST_NAME
    return manifest_from(lambda: path.read_text(encoding="utf-8"), checkpoint)


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


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _checked(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"it lists {name!r}, which is outside the checkpoint")
    return name
