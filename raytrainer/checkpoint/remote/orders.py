"""What a process that writes beside training is told to do in a bucket: the steps of a commit, one order for each.

It opens the bucket itself, by the URI and with the credentials that it finds. Whether it sees what its rank sees is
found out before the first save (``Look``): a file system that a user's code registered, or that is in the memory of a
process, is not there. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raytrainer.checkpoint.manifest import FileRecord, Manifest
from raytrainer.checkpoint.remote.steps import make_room, publish, settle_replaced, upload
from raytrainer.errors import CheckpointError
from raytrainer.storage.retry import BEFORE_A_RUN
from raytrainer.storage.store import ObjectStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Check that this process can read what its rank wrote."""

    uri: str
    name: str
    text: str
    phase: str = "look"
    is_remote: bool = True

    def follow(self, written: Mapping[str, FileRecord]) -> None:
        """Read an object.

        Raises:
            OSError: If it is not there, or cannot be read.
            ConfigurationError: If the URI cannot be opened.
            CheckpointError: If another one is there.
        """
        del written
        if opened(self.uri).with_patience(BEFORE_A_RUN).get_text(self.name) != self.text:
            raise CheckpointError("it reads another object than the worker wrote")


@dataclass(frozen=True, kw_only=True, slots=True)
class MakeRoom:
    """For rank 0: see ``steps.make_room``."""

    uri: str
    name: str
    aside: str
    phase: str = "making room"
    is_remote: bool = True

    def follow(self, written: Mapping[str, FileRecord]) -> None:
        """Move aside what is there."""
        del written
        make_room(opened(self.uri), self.name, self.aside)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """See ``steps.upload``."""

    uri: str
    name: str
    target: Path
    phase: str = "upload"
    is_remote: bool = True

    def follow(self, written: Mapping[str, FileRecord]) -> None:
        """Upload what this process has written."""
        upload(opened(self.uri), self.name, self.target, written)


@dataclass(frozen=True, kw_only=True, slots=True)
class Publish:
    """For rank 0: see ``steps.publish``."""

    uri: str
    name: str
    aside: str
    manifest: Manifest
    phase: str = "commit"
    is_remote: bool = True

    def follow(self, written: Mapping[str, FileRecord]) -> int:
        """Write the manifest; then settle what the checkpoint replaces."""
        manifest = dataclasses.replace(self.manifest, files=self.manifest.files or dict(written))
        store = opened(self.uri)
        publish(store, self.name, manifest)
        settle_replaced(store, self.aside, self.name, manifest.owners)
        return sum(record.size for record in manifest.files.values())


@functools.cache
def opened(uri: str) -> ObjectStore:
    """The store of a URI, whose connections this process keeps."""
    return ObjectStore(uri)
