"""SIGKILL at every disk operation of a save: which checkpoint is committed afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.names import list_leftovers
from raytrainer.checkpoint.scan import newest_checkpoint, sweep_leftovers, verify_checkpoint
from tests.checkpoint import crash
from tests.checkpoint.saving import save_small, tree

ROOT = Path(__file__).parents[2]


def kill_everywhere(directory, *, world_size, replaces, run_id="run"):
    save_small(directory / "origin", 10, world_size=world_size)
    save_small(directory / "origin", 20, world_size=world_size)
    done = subprocess.run(
        [sys.executable, crash.__file__, str(directory), str(world_size), str(int(replaces)), run_id],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    return [(Path(path), operation) for path, operation in kills]


@pytest.mark.parametrize("world_size", [1, 2])
def test_after_a_kill_anywhere_in_a_save_the_checkpoint_is_there_wholly_or_not_at_all(tmp_path, world_size):
    kills = kill_everywhere(tmp_path, world_size=world_size, replaces=False)
    before = tree(tmp_path / "origin")
    has_new = []
    for run_dir, _ in kills:
        sweep_leftovers(run_dir)
        rejected = []
        newest = newest_checkpoint(run_dir, run_id="run", report=rejected.append)
        assert rejected == []
        has_new.append(newest.name == "checkpoint-30")
        assert list_leftovers(run_dir) == []
        now = tree(run_dir)
        assert {name: now[name] for name in before} == before, "an earlier checkpoint changed"
        if not has_new[-1]:
            assert now == before, "something of the killed save is left"
    commit = next(i for i, (_, operation) in enumerate(kills) if operation and operation.startswith("rename"))
    assert has_new == [False] * (commit + 1) + [True] * (len(kills) - commit - 1)
    assert len(kills) > 10


def test_after_a_kill_anywhere_while_a_checkpoint_is_replaced_its_step_is_still_there(tmp_path):
    kills = kill_everywhere(tmp_path, world_size=2, replaces=True)
    attempts = []
    for run_dir, _ in kills:
        sweep_leftovers(run_dir)
        newest = newest_checkpoint(run_dir, run_id="run", report=pytest.fail)
        assert newest.name == "checkpoint-20"
        attempts.append(read_manifest(newest).attempt)
        assert sorted(os.listdir(run_dir)) == ["checkpoint-10", "checkpoint-20"]
        verify_checkpoint(run_dir / "checkpoint-10")
    renames = [i for i, (_, operation) in enumerate(kills) if operation and operation.startswith("rename")]
    assert len(renames) >= 2
    # killed before the second rename: the old one is back; from then on: the new one
    assert attempts == [0] * (renames[1] + 1) + [1] * (len(kills) - renames[1] - 1)


def test_after_a_kill_anywhere_while_another_runs_checkpoint_is_replaced_both_are_whole_or_the_old_one_is(
    tmp_path,
):
    kills = kill_everywhere(tmp_path, world_size=1, replaces=True, run_id="new")
    old = tree(tmp_path / "origin/checkpoint-20")
    is_new = []
    for run_dir, _ in kills:
        sweep_leftovers(run_dir)
        assert list_leftovers(run_dir) == []
        is_new.append(verify_checkpoint(run_dir / "checkpoint-20").run_id == "new")
        kept = run_dir / "earlier-runs/run/checkpoint-20"
        assert tree(kept if is_new[-1] else run_dir / "checkpoint-20") == old
        verify_checkpoint(run_dir / "checkpoint-10")
    assert is_new == sorted(is_new)
    assert {False, True} == set(is_new)


def test_a_restart_that_is_killed_while_it_sweeps_loses_nothing(tmp_path, monkeypatch):
    save_small(tmp_path, 10)
    (tmp_path / "checkpoint-10").rename(tmp_path / ".checkpoint-10.replaced-abc")
    monkeypatch.setattr("raytrainer.checkpoint.scan.sync_directory", lambda path: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        sweep_leftovers(tmp_path)
    monkeypatch.undo()
    sweep_leftovers(tmp_path)
    assert newest_checkpoint(tmp_path, report=pytest.fail) == tmp_path / "checkpoint-10"
