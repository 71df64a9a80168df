"""Old checkpoints are deleted by the rule of transformers, and never half deleted under their own name."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.trainer_utils import rotate_checkpoints

from raytrainer.checkpoint import durable_writes as durable
from raytrainer.checkpoint.retention import prune
from raytrainer.checkpoint.scan import newest_checkpoint
from tests.checkpoint.saving import names, save_small

step_lists = st.lists(st.integers(1, 2000), min_size=1, max_size=8, unique=True)


def hf_layout(run_dir, steps):
    """Checkpoints of transformers, saved ten seconds apart in the order of the list."""
    for place, step in enumerate(steps):
        path = run_dir / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / "trainer_state.json").write_text("{}")
        os.utime(path, (1e9 + 10 * place, 1e9 + 10 * place))


@settings(max_examples=60)
@given(steps=step_lists, limit=st.none() | st.integers(-1, 9), data=st.data())
def test_the_same_checkpoints_stay_as_with_transformers(steps, limit, data):
    best = data.draw(st.none() | st.sampled_from(steps))
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = Path(directory, "ours"), Path(directory, "theirs")
        hf_layout(ours, steps)
        hf_layout(theirs, steps)
        prune(ours, limit=limit, keep={ours / f"checkpoint-{best}"} if best else set())
        rotate_checkpoints(
            output_dir=str(theirs),
            save_total_limit=limit,
            best_model_checkpoint=str(theirs / f"checkpoint-{best}") if best else None,
            use_mtime=True,
        )
        assert names(ours) == names(theirs)


@settings(max_examples=25)
@given(steps=step_lists, limit=st.integers(1, 5), data=st.data())
def test_newest_and_best_survive_and_at_most_the_limit_remains(steps, limit, data):
    best = data.draw(st.sampled_from(steps))
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory)
        for step in steps:  # in any order: a later run may have gone back
            save_small(run_dir, step)
        protected = {f"checkpoint-{steps[-1]}", f"checkpoint-{best}"}
        deleted = prune(run_dir, limit=limit, keep={str(run_dir / f"checkpoint-{best}")})
        left = set(names(run_dir))
        assert protected <= left
        assert len(left) == min(len(steps), max(limit, len(protected)))
        oldest_first = [f"checkpoint-{step}" for step in steps if f"checkpoint-{step}" not in protected]
        assert [path.name for path in deleted] == oldest_first[: len(deleted)]
        assert left == {f"checkpoint-{step}" for step in steps} - {path.name for path in deleted}


def test_a_run_that_went_back_deletes_the_old_run_and_not_what_it_has_just_saved(tmp_path):
    save_small(tmp_path, 200, run_id="old")
    save_small(tmp_path, 101, run_id="new")
    prune(tmp_path, limit=1, keep=set())
    assert newest_checkpoint(tmp_path, run_id="new", report=pytest.fail) == tmp_path / "checkpoint-101"


def test_a_directory_that_was_never_committed_does_not_protect_itself_as_the_newest(tmp_path):
    save_small(tmp_path, 10)
    (tmp_path / "checkpoint-20").mkdir()
    prune(tmp_path, limit=1, keep=set())
    assert names(tmp_path) == ["checkpoint-10"]


def test_best_alone_stays_at_the_end_of_a_run_with_limit_one(tmp_path):
    for step in (10, 20, 30):
        save_small(tmp_path, step)
    prune(tmp_path, limit=1, keep={tmp_path / "checkpoint-20"}, keep_newest=False)
    assert names(tmp_path) == ["checkpoint-20"]


def test_the_last_committed_checkpoint_stays_when_those_to_keep_are_not_here(tmp_path):
    save_small(tmp_path, 10)
    save_small(tmp_path, 20)
    (tmp_path / "checkpoint-30").mkdir()
    prune(tmp_path, limit=1, keep={tmp_path / "elsewhere"}, keep_newest=False)
    assert names(tmp_path) == ["checkpoint-20"]


def test_the_best_is_found_by_a_relative_path_too(tmp_path, monkeypatch):
    for step in (10, 20):
        save_small(tmp_path, step)
    monkeypatch.chdir(tmp_path)
    prune(tmp_path, limit=1, keep={"checkpoint-10"})
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-20"]


def test_a_deletion_that_is_cut_off_leaves_nothing_that_looks_like_a_checkpoint(tmp_path, monkeypatch):
    for step in (10, 20):
        save_small(tmp_path, step)

    def half(path):
        (Path(path) / "trainer_state.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(durable.shutil, "rmtree", half)
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path, limit=1, keep=set())
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["checkpoint-20"]


def test_a_checkpoint_that_cannot_be_deleted_is_a_warning(tmp_path, monkeypatch, caplog):
    for step in (10, 20):
        save_small(tmp_path, step)

    def fail(path):
        raise PermissionError("no")

    monkeypatch.setattr(shutil, "rmtree", fail)
    prune(tmp_path, limit=1, keep=set())
    assert "could not be deleted" in caplog.text
