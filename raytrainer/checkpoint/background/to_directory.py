"""A save beside training into the run's directory, which all ranks share: it is written there, then renamed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from raytrainer.checkpoint.background.destination import MakeManifest, Turn
from raytrainer.checkpoint.commit import WritePart, publish, storage_explained, write_all_parts
from raytrainer.checkpoint.manifest import FileRecord, Manifest
from raytrainer.checkpoint.names import checkpoint_name, writing_name
from raytrainer.checkpoint.rank_agreement import Agreement
from raytrainer.runtimes.base import Runtime


@dataclass(frozen=True, kw_only=True, slots=True)
class Publish:
    """Commit a directory that all ranks have written."""

    target: Path
    final: Path
    manifest: Manifest
    phase: str = "commit"
    is_remote: bool = False

    def follow(self, written: Mapping[str, FileRecord]) -> int:
        """See ``commit.publish``."""
        manifest = dataclasses.replace(self.manifest, files=self.manifest.files or dict(written))
        publish(self.target, self.final, step=manifest.step, manifest=manifest)
        return sum(path.stat().st_size for path in self.final.rglob("*") if path.is_file())


class ToDirectory:
    """The directory of one checkpoint.

    Args:
        run_dir: Where ``checkpoint-{step}`` will be; on storage that all ranks share.
        step: The optimizer step that is done.
        runtime: Where this rank runs.
    """

    def __init__(self, run_dir: Path, step: int, runtime: Runtime) -> None:
        self._final = run_dir / checkpoint_name(step)
        self.location = str(self._final)
        self.target = run_dir / writing_name(step, runtime.run_id, runtime.attempt)

    def write_parts(
        self, ranks: Agreement, *, runtime: Runtime, write_parts: Sequence[WritePart]
    ) -> list[str]:
        """All ranks: see ``write_all_parts``."""
        return write_all_parts(self.target, self._final, ranks, runtime=runtime, write_parts=write_parts)

    def turns(self, manifest: MakeManifest) -> Sequence[Turn]:
        """Rank 0 publishes."""
        return [
            Turn(
                is_for_all=False,
                make=lambda records: Publish(
                    target=self.target, final=self._final, manifest=manifest(records)
                ),
            )
        ]

    def explained(self) -> AbstractContextManager[None]:
        """See ``storage_explained``."""
        return storage_explained(self._final, always=True)

    def undo(self, runtime: Runtime, *, is_over: bool) -> None:
        """Rank 0: delete what was written."""
        del is_over
        if runtime.rank == 0:
            shutil.rmtree(self.target, ignore_errors=True)

    def end(self) -> None:
        """The directory has its new name."""
