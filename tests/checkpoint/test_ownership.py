"""Which run resume follows, and what a run never deletes or replaces; on disks and in buckets."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import pytest

import raytrainer
from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.remote.commit import commit_to_bucket
from raytrainer.checkpoint.remote.retention import prune_bucket
from raytrainer.checkpoint.remote.scan import newest_in_bucket, sweep_bucket
from raytrainer.checkpoint.retention import prune
from raytrainer.checkpoint.scan import newest_checkpoint, requested_checkpoint, sweep_leftovers
from raytrainer.errors import CheckpointError
from raytrainer.storage.store import ObjectStore
from tests.checkpoint.saving import FACTS, names, save_small, tree, write_small_part
from tests.fakes import FakeWorld
from tests.parity.twins import make_trainer, rows

FOLLOWS_A = dataclasses.replace(FACTS, continues=("a",))


class Disk:
    """A run directory."""

    def __init__(self, path):
        self.path = path

    def save(self, step, run_id, facts=FACTS):
        save_small(self.path, step, run_id=run_id, facts=facts)

    def newest(self, report):
        found = newest_checkpoint(self.path, report=report)
        return found and found.name

    def prune(self, limit, owners):
        prune(self.path, limit=limit, keep=(), owners=owners)

    def sweep(self):
        sweep_leftovers(self.path)

    def files(self):
        return tree(self.path)


class Bucket:
    """A run's bucket."""

    def __init__(self, bucket, stage):
        self.bucket, self.stage = bucket, stage
        self.store = ObjectStore(bucket.uri)

    def save(self, step, run_id, facts=FACTS):
        FakeWorld(1, run_id=run_id).run(
            lambda runtime: commit_to_bucket(
                self.store,
                self.stage,
                step,
                runtime=runtime,
                write_parts=[write_small_part(step, 0)],
                facts=facts,
                keep_files=False,
            )
        )

    def newest(self, report):
        found = newest_in_bucket(self.store, report=report, download=False)
        return found and found.rpartition("/")[2]

    def prune(self, limit, owners):
        prune_bucket(self.store, limit=limit, keep=(), owners=owners)

    def sweep(self):
        sweep_bucket(self.store)

    def files(self):
        return {name: self.bucket.read(name) for name in self.bucket.objects()}


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path):
    if request.param == "disk":
        return Disk(tmp_path)
    return Bucket(request.getfixturevalue("memory_bucket"), tmp_path)


def below(files, folder):
    return {
        name.removeprefix(f"{folder}/"): data for name, data in files.items() if name.startswith(f"{folder}/")
    }


def test_the_newest_checkpoint_is_of_the_newest_run_and_what_is_passed_over_is_said(place):
    for step in (2, 4, 6):
        place.save(step, "a")
    place.save(3, "b")
    reports = []
    assert place.newest(reports.append) == "checkpoint-3"
    assert len(reports) == 1
    assert "checkpoint-6, checkpoint-4 are of another run" in reports[0]


def test_a_run_that_goes_on_with_another_falls_back_to_what_that_one_saved(place):
    for step in (2, 4):
        place.save(step, "a")
    place.save(6, "b", FOLLOWS_A)
    assert place.newest(pytest.fail) == "checkpoint-6"
    if isinstance(place, Disk):
        os.truncate(place.path / "checkpoint-6/nested/weights.bin", 5)
    else:
        place.bucket.write("checkpoint-6/nested/weights.bin", b"6")
    reports = []
    assert place.newest(reports.append) == "checkpoint-4"
    assert [text.split()[0] for text in reports] == ["checkpoint-6"]


def test_where_the_newest_run_has_no_whole_checkpoint_another_run_is_not_gone_on_with(tmp_path):
    save_small(tmp_path, 6, run_id="a")
    os.truncate(save_small(tmp_path, 4, run_id="b") / "nested/weights.bin", 5)
    for requested in (True, "auto"):
        with pytest.raises(CheckpointError, match="checkpoint-6 of earlier runs can be named"):
            requested_checkpoint(tmp_path, requested, report=lambda text: None)


def test_retention_counts_and_deletes_the_checkpoints_of_the_own_runs_only(place):
    for step in (2, 4, 6):
        place.save(step, "a")
    for step in (7, 8):
        place.save(step, "b")
    place.prune(1, {"b"})
    assert {name.partition("/")[0] for name in place.files()} == {
        f"checkpoint-{step}" for step in (2, 4, 6, 8)
    }
    place.prune(1, {"b", "a"})
    assert {name.partition("/")[0] for name in place.files()} == {"checkpoint-8"}


def test_a_checkpoint_of_another_run_whose_name_is_needed_is_kept_elsewhere(place):
    place.save(2, "a")
    of_a = below(place.files(), "checkpoint-2")
    place.save(2, "b")
    now = place.files()
    assert below(now, "earlier-runs/a/checkpoint-2") == of_a
    assert json.loads(below(now, "checkpoint-2")["manifest.json"])["run_id"] == "b"
    assert {name.partition("/")[0] for name in now} == {"checkpoint-2", "earlier-runs"}
    place.sweep()
    assert place.files() == now


def test_a_run_replaces_what_the_run_before_saved_that_it_goes_on_with(place):
    place.save(2, "a")
    place.save(2, "b", FOLLOWS_A)
    assert {name.partition("/")[0] for name in place.files()} == {"checkpoint-2"}


def test_two_runs_whose_checkpoints_name_nobody_are_both_kept(tmp_path):
    for number in range(2):
        path = tmp_path / "checkpoint-2"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        (path / "trainer_state.json").write_text(str(number))
        save_small(tmp_path, 2)
    kept = [
        (tmp_path / f"earlier-runs/{run}/checkpoint-2/trainer_state.json") for run in ("unnamed", "unnamed-2")
    ]
    assert [path.read_text() for path in kept] == ["0", "1"]


def test_a_link_to_a_checkpoint_is_replaced_and_deleted_and_what_it_leads_to_stays(tmp_path, caplog):
    there = save_small(tmp_path / "elsewhere", 2)
    before = tree(there)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for step in (1, 2):
        (run_dir / f"checkpoint-{step}").symlink_to(there)
    save_small(run_dir, 2)
    save_small(run_dir, 3)
    prune(run_dir, limit=1, keep=())
    assert names(run_dir) == ["checkpoint-3"]
    assert tree(there) == before
    assert caplog.text == ""


def train(tmp_path, *, resume=None, **options):
    constant = {"lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(raytrainer, tmp_path, **constant, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_resume_follows_the_newest_run_and_not_the_highest_step_of_another(tmp_path):
    train(tmp_path, max_steps=6)
    train(tmp_path, max_steps=4, seed=7)
    resumed = train(tmp_path, max_steps=6, seed=7, resume=True)
    whole = train(tmp_path / "whole", max_steps=6, seed=7)
    assert [row[0] for row in rows(resumed)] == [1, 2, 3, 4, 5, 6]
    assert rows(resumed)[4:] == rows(whole)[4:]


def test_a_fresh_run_says_what_it_leaves_and_loses_nothing_of_the_run_before(tmp_path, caplog):
    train(tmp_path, max_steps=6)
    before = tree(tmp_path)
    run_id = read_manifest(tmp_path / "checkpoint-2").run_id
    caplog.clear()
    train(tmp_path, max_steps=2, save_total_limit=1)
    assert "has 3 checkpoints of earlier runs: checkpoint-2, checkpoint-4, checkpoint-6" in caplog.text
    now = tree(tmp_path)
    for step, folder in ((2, f"earlier-runs/{run_id}/"), (4, ""), (6, "")):
        name = f"checkpoint-{step}"
        assert below(now, f"{folder}{name}") == below(before, name)
    assert read_manifest(tmp_path / "checkpoint-2").run_id != run_id


def test_a_run_that_resumes_deletes_old_checkpoints_of_the_run_that_it_goes_on_with(tmp_path):
    train(tmp_path, max_steps=4)
    train(tmp_path, max_steps=8, save_total_limit=2, resume=True)
    assert [name for name in names(tmp_path) if "checkpoint-" in name] == ["checkpoint-6", "checkpoint-8"]
