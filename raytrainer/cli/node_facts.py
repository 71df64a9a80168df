"""What one machine of a cluster says about itself, and whether it can use the storage of runs.

Runs on every node as a task of Ray, so it imports none of what only a driver has.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import as_path, is_uri
from raytrainer.telemetry.environment import environment

_SEEN_S = 5.0
"""How long a file of another machine may take to appear [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """A machine."""

    host: str
    facts: dict[str, object]
    """As ``telemetry.environment`` has them."""
    gpus: list[str] = field(default_factory=list[str])
    shared_memory: tuple[int, int] | None = None
    """Free, and all [bytes]; None where there is none."""
    storage_problem: str | None = None
    storage_s: float | None = None
    """How long a write, a read, a listing and a deletion took in all [s]; None where nothing was tried."""


def node_facts(storage: str | None = None, marker: str | None = None) -> NodeFacts:
    """Look at this machine.

    Args:
        storage: A directory or URI that is tried: an object is written, listed, read and deleted.
        marker: Name of a file that another machine has left in the directory.
    """
    problem, took_s = None, None
    if storage is not None:
        began = time.perf_counter()
        problem = storage_problem(storage, marker)
        took_s = time.perf_counter() - began
    facts = environment()
    return NodeFacts(
        host=str(facts["host"]),
        facts=facts,
        gpus=_gpus(),
        shared_memory=_shared_memory(),
        storage_problem=problem,
        storage_s=took_s,
    )


def storage_problem(storage: str, marker: str | None) -> str | None:
    """Why this machine cannot use a place for runs; None if it can.

    Args:
        storage: A directory or URI.
        marker: As in ``node_facts``.
    """
    location = as_path(storage)
    if is_uri(location):
        from raytrainer.storage.probe import check_bucket

        try:
            check_bucket(location, "--storage")
        except ConfigurationError as error:
            return str(error)
        return None
    path = Path(location)
    try:
        return _directory_problem(path, marker)
    except OSError as error:
        return (
            f"{path} cannot be used: {error}. Check that it is mounted, its permissions and its free space."
        )


def _directory_problem(path: Path, marker: str | None) -> str | None:
    if marker is not None and not _appears(path / marker):
        return (
            f"{path} is not the directory that the first machine sees: a file that was written there is not here. "
            "Mount it on all machines, or name a bucket."
        )
    probe = path / f".doctor-{secrets.token_hex(4)}"
    text = "raytrainer checks that it can write here.\n"
    try:
        probe.write_text(text, encoding="utf-8")
        if probe.name not in os.listdir(path) or probe.read_text(encoding="utf-8") != text:
            return f"{path} does not give back what was written to it."
    finally:
        probe.unlink(missing_ok=True)
    return None


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + _SEEN_S
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    found: list[str] = []
    for index in range(torch.cuda.device_count()):
        properties = cast("Any", torch.cuda).get_device_properties(index)
        found.append(f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
    return found


def _shared_memory() -> tuple[int, int] | None:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return None
    return usage.free, usage.total
