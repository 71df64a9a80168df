"""``raytrainer verify``: whether checkpoints are complete and intact, and what they can be resumed with."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raytrainer.checkpoint.digests import TITLES
from raytrainer.checkpoint.locate import checkpoints_in_bucket, forget_copies, readable
from raytrainer.checkpoint.manifest import Manifest
from raytrainer.checkpoint.names import (
    MANIFEST_NAME,
    OPTIMIZER_NAME,
    SCHEDULER_NAME,
    SHARDED_OPTIMIZER_NAME,
    STATE_NAME,
    list_checkpoints,
    step_of,
)
from raytrainer.checkpoint.verify import check_complete, is_ours, verify_checkpoint
from raytrainer.checkpoint.weight_files import find_adapter, find_weights
from raytrainer.errors import CheckpointError, ConfigurationError
from raytrainer.storage.locations import is_uri
from raytrainer.telemetry.formatting import format_bytes, wrapped
from raytrainer.telemetry.paint import Paint, is_terminal, wants_style

_NAME_COLUMNS = 9
_UNLIMITED = 10_000


def verify(location: str, *, as_json: bool) -> int:
    """Check a checkpoint, or all of a run, and print what is found.

    Args:
        location: A checkpoint or a run: a directory or a URI.
        as_json: Print JSON.

    Returns:
        The exit code: 1 if one is damaged.

    Raises:
        ConfigurationError: If there is no checkpoint.
    """
    if is_uri(location):
        found = [check(uri) for uri in checkpoints_in_bucket(location)]
    else:
        found = [check(str(path)) for path in _checkpoints(Path(location))]
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print("\n\n".join("\n".join(_lines(facts)) for facts in found))
    return 0 if all(facts["intact"] for facts in found) else 1


def check(location: str) -> dict[str, Any]:
    """What is known of a checkpoint."""
    facts: dict[str, Any] = {"checkpoint": location, "intact": False, "problem": None}
    try:
        path = readable(location)
        if is_ours(path):
            facts |= _of_manifest(verify_checkpoint(path))
        else:
            with _named(path, location):
                check_complete(path, needs_optimizer=False)
            facts |= {
                "step": step_of(path),
                "verified": "its files look complete; no hashes prove that they are intact",
            }
        return facts | {"intact": True, "resumes_with": _parts(path)}
    except CheckpointError as error:
        facts["problem"] = str(error)
        return facts
    finally:
        forget_copies()


def _checkpoints(path: Path) -> list[Path]:
    if not path.is_dir():
        raise ConfigurationError(
            f"{path} is not a directory. Name a checkpoint-N or the output_dir of a run."
        )
    if (path / MANIFEST_NAME).is_file() or (path / STATE_NAME).is_file():
        return [path]
    found = list_checkpoints(path)
    if not found:
        raise ConfigurationError(
            f"{path} is no checkpoint, and there is none in it: it has neither {MANIFEST_NAME} nor "
            f"{STATE_NAME}. Name a checkpoint-N or the output_dir of a run."
        )
    return found


@contextlib.contextmanager
def _named(path: Path, location: str) -> Generator[None]:
    """Let errors about a copy of an object name where it is."""
    if not is_uri(location):
        yield
        return
    from raytrainer.checkpoint.remote.fetch import told_by_uri

    with told_by_uri(path, location):
        yield


def _of_manifest(manifest: Manifest) -> dict[str, Any]:
    return {
        "step": manifest.step,
        "epoch": manifest.epoch,
        "verified": f"sizes and {_hashes(manifest)} of all files",
        "files": len(manifest.files),
        "bytes": sum(record.size for record in manifest.files.values()),
        "created_at": manifest.created_at,
        "run": manifest.run_id,
        "workers": manifest.world_size,
        "samples_per_step": manifest.global_batch_size,
        "versions": manifest.versions,
        "other_versions_here": _differing(manifest.versions),
    }


def _hashes(manifest: Manifest) -> str:
    return ", ".join(sorted({TITLES[record.algorithm] for record in manifest.files.values()}))


def _differing(versions: dict[str, str]) -> dict[str, str]:
    """Packages of other versions here, and these; None of the package here counts too."""
    found: dict[str, str] = {}
    for name, version in versions.items():
        if name == "python":
            continue
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            here = "not installed"
        if here != version:
            found[name] = here
    return found


def _parts(path: Path) -> dict[str, bool]:
    has_optimizer = (path / OPTIMIZER_NAME).exists() or (path / SHARDED_OPTIMIZER_NAME).exists()
    return {
        "weights": find_weights(path) is not None or find_adapter(path) is not None,
        "optimizer": has_optimizer,
        "schedule": (path / SCHEDULER_NAME).exists(),
        "random_state": any(path.glob("rng_state*")),
        "trainer_state": (path / STATE_NAME).exists(),
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    paint, width = Paint(wants_style(sys.stdout)), _width()
    state = paint("green", "intact") if facts["intact"] else paint("bold yellow", "DAMAGED")
    lines = [f"{facts['checkpoint']}: {state}"]
    if facts["problem"]:
        return [*lines, *(f"  {line}" for line in wrapped(facts["problem"], width - 2))]
    rows = {"checked": facts["verified"], "step": facts["step"]}
    if "bytes" in facts:
        rows |= {
            "written": f"{_when(facts['created_at'])}, by {facts['workers']} worker{'s' * (facts['workers'] != 1)}",
            "batch": f"{facts['samples_per_step']} samples in a step",
            "size": f"{format_bytes(facts['bytes'])} in {facts['files']} files",
        }
    parts: dict[str, bool] = facts["resumes_with"]
    has = ", ".join(name.replace("_", " ") for name, is_there in parts.items() if is_there)
    lacks = ", ".join(name.replace("_", " ") for name, is_there in parts.items() if not is_there)
    rows["holds"] = has + (f"; not: {lacks}" if lacks else "")
    rows["resumes"] = _resumes(parts)
    others: dict[str, str] = facts.get("other_versions_here") or {}
    if others:
        saved = facts["versions"]
        rows["versions"] = ", ".join(f"{name} {saved[name]}, here {here}" for name, here in others.items())
    for name, value in rows.items():
        first, *rest = wrapped(str(value), width - _NAME_COLUMNS - 2)
        lines.append(f"  {paint.dim(f'{name:<{_NAME_COLUMNS}}')}{first}")
        lines += [" " * (_NAME_COLUMNS + 2) + line for line in rest]
    return lines


def _width() -> int:
    """Of a terminal; in a file lines are whole."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else _UNLIMITED


def _when(time: str) -> str:
    try:
        return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return time


def _resumes(parts: dict[str, bool]) -> str:
    if parts["weights"] and parts["optimizer"] and parts["trainer_state"]:
        return "a run goes on from it with any number of workers and any backend"
    if parts["weights"]:
        return "its weights are a beginning; a run does not go on from it as if nothing had happened"
    return "nothing: it holds no weights"
