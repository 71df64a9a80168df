"""Committing a checkpoint: its files, the order they are written in, and what a failure leaves behind."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash

from raytrainer.checkpoint import commit
from raytrainer.checkpoint import durable_writes as durable
from raytrainer.checkpoint.commit import commit_checkpoint
from raytrainer.checkpoint.scan import verify_checkpoint
from raytrainer.errors import CheckpointError
from tests.checkpoint.saving import FACTS, names, save_small, tree, write_small_part
from tests.fakes import FakeWorld, LostRankError


def save_with(run_dir, parts, *, step=20, run_id="run"):
    """Save with one part per rank; return what each rank returned or raised."""
    return FakeWorld(len(parts), run_id=run_id).outcomes(
        lambda runtime: commit_checkpoint(
            run_dir, step, runtime=runtime, write_parts=[parts[runtime.rank]], facts=FACTS
        )
    )


def raising(error):
    def write(target):
        (target / "half.bin").write_bytes(b"x")
        raise error

    return write


def test_all_ranks_get_the_committed_directory(tmp_path):
    outcomes = save_with(tmp_path, [write_small_part(20, 0), write_small_part(20, 1)])
    assert outcomes == [tmp_path / "checkpoint-20"] * 2
    assert names(tmp_path) == ["checkpoint-20"]


def test_manifest_lists_every_file_of_all_ranks_with_size_and_hash(tmp_path):
    path = save_small(tmp_path, 5, world_size=3)
    manifest = verify_checkpoint(path)
    content = {name: data for name, data in tree(path).items() if name != "manifest.json"}
    assert sorted(manifest.files) == sorted(content)
    assert len(content) == 4
    for name, record in manifest.files.items():
        assert record.size == len(content[name])
        assert record.digest == xxhash.xxh3_128(content[name]).hexdigest()


def test_manifest_says_which_run_wrote_it_and_what_it_holds(tmp_path):
    manifest = verify_checkpoint(save_small(tmp_path, 5, world_size=2, run_id="r1", attempt=3))
    assert (manifest.step, manifest.world_size, manifest.run_id, manifest.attempt) == (5, 2, "r1", 3)
    assert (manifest.epoch, manifest.samples_consumed, manifest.global_batch_size) == (0.5, 64, 8)
    assert manifest.model_signature == "m"
    assert set(manifest.versions) == {"python", "raytrainer", "torch", "transformers", "x"}
    assert manifest.created_at.endswith("+00:00")


def test_each_file_is_hashed_once_by_the_rank_that_wrote_it(tmp_path, monkeypatch):
    hashed = []
    real = commit.record_files

    def recording(target, file_names):
        hashed.append(sorted(file_names))
        return real(target, file_names)

    monkeypatch.setattr(commit, "record_files", recording)
    save_small(tmp_path, 5, world_size=3)
    assert sorted(hashed) == [
        ["nested/weights.bin", "trainer_state.json"],
        ["rank-1.bin"],
        ["rank-2.bin"],
    ]


def test_a_file_that_no_rank_named_is_in_the_manifest(tmp_path):
    def write(target):
        (target / "a.bin").write_bytes(b"a")
        (target / "by-a-hook.txt").write_bytes(b"b")
        return [target / "a.bin"]

    (path,) = save_with(tmp_path, [write])
    assert sorted(verify_checkpoint(path).files) == ["a.bin", "by-a-hook.txt"]


def test_a_file_that_two_ranks_named_is_recorded_once(tmp_path):
    def write(target):
        (target / "same.bin").write_bytes(b"a")
        return [Path("same.bin"), Path("same.bin")]

    path, _ = save_with(tmp_path, [write, write])
    assert list(verify_checkpoint(path).files) == ["same.bin"]


def test_data_is_synced_before_the_manifest_and_the_manifest_before_the_rename(tmp_path, monkeypatch):
    order = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor):
        order.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_fsync(descriptor)

    def rename(self, target):
        order.append(f"rename to {Path(target).name}")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    save_small(tmp_path, 7)
    assert order == [
        "sync weights.bin",
        "sync trainer_state.json",
        "sync nested",
        "sync .checkpoint-7.writing-run-0",
        "sync manifest.json",
        "sync .checkpoint-7.writing-run-0",
        "rename to checkpoint-7",
        f"sync {tmp_path.name}",
    ]


def test_a_second_save_of_a_step_replaces_the_first(tmp_path):
    save_small(tmp_path, 5, attempt=0)
    path = save_small(tmp_path, 5, attempt=1)
    assert verify_checkpoint(path).attempt == 1
    assert names(tmp_path) == ["checkpoint-5"]


def test_what_a_killed_save_of_this_attempt_left_is_not_mixed_in(tmp_path):
    left = tmp_path / ".checkpoint-5.writing-run-0"
    left.mkdir()
    (left / "old.bin").write_bytes(b"x")
    assert "old.bin" not in verify_checkpoint(save_small(tmp_path, 5)).files


def test_run_ids_with_any_characters_make_a_directory_name(tmp_path):
    assert verify_checkpoint(save_small(tmp_path, 5, run_id="a/b c:..")).run_id == "a/b c:.."


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_failing_rank_raises_its_own_exception_and_the_others_one_that_names_it(tmp_path, rank):
    save_small(tmp_path, 10, world_size=3)
    before = tree(tmp_path)
    error = ValueError("no such thing")
    parts = [write_small_part(20, r) for r in range(3)]
    parts[rank] = raising(error)
    outcomes = save_with(tmp_path, parts)
    assert outcomes[rank] is error
    for other in {0, 1, 2} - {rank}:
        assert type(outcomes[other]) is CheckpointError
        assert f"rank {rank} failed with ValueError: no such thing" in str(outcomes[other])
        assert "checkpoint-20 was not saved" in str(outcomes[other])
    assert tree(tmp_path) == before
    assert names(tmp_path) == ["checkpoint-10"]


def test_a_failed_replacement_leaves_the_checkpoint_that_it_was_to_replace(tmp_path):
    save_small(tmp_path, 20)
    before = tree(tmp_path)
    save_with(tmp_path, [raising(RuntimeError("x"))])
    assert tree(tmp_path) == before


def test_two_failing_ranks_each_raise_their_own(tmp_path):
    first, second = ValueError("a"), KeyError("b")
    assert save_with(tmp_path, [raising(first), raising(second)]) == [first, second]


@pytest.mark.parametrize("broken", ["sync_tree", "write_synced", "sync_file"])
def test_a_failure_of_the_commit_itself_reaches_all_ranks_and_leaves_nothing(tmp_path, monkeypatch, broken):
    save_small(tmp_path, 10, world_size=2)
    before = tree(tmp_path)

    def fail(*args):
        raise OSError(errno.EIO, "disk is gone")

    monkeypatch.setattr(commit, broken, fail)
    outcomes = save_with(tmp_path, [write_small_part(20, 0), write_small_part(20, 1)])
    assert [type(outcome) for outcome in outcomes] == [CheckpointError] * 2
    assert all("disk is gone" in str(outcome) for outcome in outcomes)
    assert tree(tmp_path) == before


def test_when_the_new_checkpoint_cannot_be_renamed_the_old_one_gets_its_name_back(tmp_path, monkeypatch):
    save_small(tmp_path, 20, attempt=0)
    before = tree(tmp_path)
    real = Path.rename

    def rename(self, target):
        if ".writing-" in self.name:
            raise OSError(errno.EIO, "no")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(CheckpointError, match="could not be written"):
        save_small(tmp_path, 20, attempt=1)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_storage_error_says_where_and_how_much_is_free(tmp_path, number):
    error = OSError(number, os.strerror(number))
    (outcome,) = save_with(tmp_path, [raising(error)])
    assert type(outcome) is CheckpointError
    assert outcome.__cause__ is error
    assert str(tmp_path / "checkpoint-20") in str(outcome)
    assert "GB free" in str(outcome)
    assert os.strerror(number) in str(outcome)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_storage_error_of_one_rank_has_one_text_on_all_which_names_the_rank(tmp_path, rank):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    parts = [write_small_part(20, 0), write_small_part(20, 1)]
    parts[rank] = raising(error)
    outcomes = save_with(tmp_path, parts)
    assert [type(outcome) for outcome in outcomes] == [CheckpointError] * 2
    text = str(outcomes[0])
    assert text == str(outcomes[1])
    assert f"checkpoint-20 was not saved, because rank {rank} failed: {tmp_path}" in text
    assert "No space left" in text
    assert text.count("Earlier checkpoints are untouched.") == 1
    assert outcomes[rank].__cause__ is error


def test_an_os_error_that_has_nothing_to_do_with_storage_stays_what_it_is(tmp_path):
    error = ConnectionError("hub is down")
    (outcome,) = save_with(tmp_path, [raising(error)])
    assert outcome is error


def test_an_output_dir_that_cannot_be_made_is_a_checkpoint_error(tmp_path):
    (tmp_path / "file").write_text("x")
    outcomes = save_with(tmp_path / "file" / "run", [write_small_part(20, 0), write_small_part(20, 1)])
    assert [type(outcome) for outcome in outcomes] == [CheckpointError] * 2
    assert isinstance(outcomes[0].__cause__, OSError)


def test_a_path_that_was_not_written_is_refused(tmp_path):
    (outcome,) = save_with(tmp_path, [lambda target: [target / "ghost.bin"]])
    assert isinstance(outcome, CheckpointError)
    assert "ghost.bin" in str(outcome)
    assert names(tmp_path) == []


def test_an_interrupt_leaves_nothing_half_written(tmp_path):
    (outcome,) = save_with(tmp_path, [raising(KeyboardInterrupt())])
    assert isinstance(outcome, KeyboardInterrupt)
    assert names(tmp_path) == []


def test_a_rank_that_dies_in_its_part_leaves_no_checkpoint(tmp_path):
    outcomes = save_with(tmp_path, [write_small_part(20, 0), raising(SystemExit(1))])
    assert isinstance(outcomes[0], LostRankError)
    assert names(tmp_path) == []


def test_an_old_checkpoint_that_cannot_be_deleted_does_not_fail_the_save(tmp_path, monkeypatch, caplog):
    save_small(tmp_path, 20)

    def fail(path):
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(durable.shutil, "rmtree", fail)
    verify_checkpoint(save_small(tmp_path, 20, attempt=1))
    assert "could not be deleted" in caplog.text


FULL_DISK = """
import sys
from pathlib import Path
import safetensors.torch, torch
from raytrainer.checkpoint.commit import commit_checkpoint
from tests.checkpoint.saving import FACTS
from tests.fakes import FakeWorld

def write(target):
    if sys.argv[2] == "torch":
        torch.save({"x": torch.zeros(1 << 20)}, target / "x.pt")
    else:
        safetensors.torch.save_file({"x": torch.zeros(1 << 20)}, target / "x.safetensors")
    return []

save = lambda runtime: commit_checkpoint(Path(sys.argv[1]), 1, runtime=runtime, write_parts=[write], facts=FACTS)
(outcome,) = FakeWorld(1).outcomes(save)
print(type(outcome).__name__, outcome)
"""


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["torch", "safetensors"])
def test_a_write_that_storage_cuts_off_is_told_as_a_storage_error(tmp_path, writer):
    # a limit on the size of files stands in for a full disk: both cut a write off in the middle

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), writer],
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=limit,
    )
    assert done.stdout.startswith("CheckpointError"), done.stdout + done.stderr
    assert "could not be written" in done.stdout
    assert names(tmp_path) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_all_files_have_the_permissions_that_the_umask_gives_to_new_files(tmp_path, mask):
    def write(target):
        (target / "mine.bin").write_bytes(b"x")
        (target / "closed.bin").write_bytes(b"x")
        (target / "closed.bin").chmod(0o600)
        return [Path("mine.bin"), Path("closed.bin")]

    former = os.umask(mask)
    try:
        path = FakeWorld(1).run(
            lambda runtime: commit_checkpoint(tmp_path, 1, runtime=runtime, write_parts=[write], facts=FACTS)
        )[0]
    finally:
        os.umask(former)
    assert {file.stat().st_mode & 0o777 for file in path.rglob("*")} == {0o666 & ~mask}
