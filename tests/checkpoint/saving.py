"""Small checkpoints for the tests of this folder. Imports no torch, so that a process that saves starts at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

from raytrainer.checkpoint.commit import CheckpointFacts, commit_checkpoint
from tests.fakes import FakeWorld

FACTS = CheckpointFacts(
    epoch=0.5, samples_consumed=64, global_batch_size=8, model_signature="m", versions={"x": "1"}
)


def write_small_part(step, rank):
    """What a rank writes: rank 0 a state and a nested file, the others one file each."""

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


def tree(run_dir):
    """All files below a directory with their content."""
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in sorted(Path(run_dir).rglob("*"))
        if path.is_file()
    }


def names(run_dir):
    return sorted(os.listdir(run_dir))
