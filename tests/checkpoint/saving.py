"""Small checkpoints for the checkpoint tests. Imports no torch, so that a saving process starts fast."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from raytrainer.checkpoint.commit import CheckpointFacts, commit_checkpoint
from tests.fakes import FakeWorld

FACTS = CheckpointFacts(
    epoch=0.5, samples_consumed=64, global_batch_size=8, model_signature="m", versions={"x": "1"}
)


def write_small_part(step, rank):
    """The files of a rank: a state and a nested file on rank 0, one file on each other rank."""

    def write(target: Path) -> list[Path]:
        if rank:
            (target / f"rank-{rank}.bin").write_bytes(b"%d" % step * 100)
            return [Path(f"rank-{rank}.bin")]
        (target / "nested").mkdir()
        (target / "nested" / "weights.bin").write_bytes(b"%d" % step * 1000)
        (target / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        return [target / "nested" / "weights.bin", target / "trainer_state.json"]

    return write


def save_small(run_dir, step, *, world_size=1, run_id="run", attempt=0, facts=FACTS):
    """Commit a checkpoint of a few small files."""
    world = FakeWorld(world_size, run_id=run_id, attempt=attempt)
    return world.run(
        lambda runtime: commit_checkpoint(
            run_dir, step, runtime=runtime, write_parts=[write_small_part(step, runtime.rank)], facts=facts
        )
    )[0]


def as_an_earlier_version(checkpoint: Path) -> None:
    """Give a checkpoint the manifest that versions wrote which knew SHA-256 only."""
    path = checkpoint / "manifest.json"
    body = json.loads(path.read_text())
    del body["digest"]
    body["format"] = 1
    for name, record in body["files"].items():
        content = (checkpoint / name).read_bytes()
        body["files"][name] = {"size": record["size"], "sha256": hashlib.sha256(content).hexdigest()}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**body, "digest": digest}, indent=2, sort_keys=True) + "\n")


def tree(run_dir):
    """Contents of all files below a directory, by relative path."""
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in sorted(Path(run_dir).rglob("*"))
        if path.is_file()
    }


def names(run_dir):
    return sorted(os.listdir(run_dir))
