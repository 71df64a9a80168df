"""What tests have the process do when files are written."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raytrainer.checkpoint.manifest import FileRecord
from tests.checkpoint.background.odd_process import wait_for


@dataclass(frozen=True, kw_only=True, slots=True)
class SayPolicy:
    """Says how the thread is scheduled, as if that were a size."""

    is_remote: bool
    phase: str = "asking"

    def follow(self, written: Mapping[str, FileRecord]) -> int:
        return os.sched_getscheduler(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Warn:
    """Warns, and then takes long."""

    gate: Path
    is_remote: bool = True
    phase: str = "warning"

    def follow(self, written: Mapping[str, FileRecord]) -> None:
        logging.getLogger("raytrainer.storage.retry").warning("the store does not answer")
        wait_for(self.gate)


@dataclass(frozen=True, kw_only=True, slots=True)
class RaiseVariables:
    """Fails with the values of variables."""

    names: tuple[str, ...]
    is_remote: bool = False
    phase: str = "raising"

    def follow(self, written: Mapping[str, FileRecord]) -> None:
        raise RuntimeError([os.environ.get(name) for name in self.names])
