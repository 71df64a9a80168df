"""Whatever lies in a checkpoint makes that checkpoint bad at most, and never the run; only listed files are read."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil

import pytest
import safetensors.torch
import torch

import raytrainer
from raytrainer.checkpoint.commit import record_files
from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.remote.scan import newest_in_bucket
from raytrainer.checkpoint.scan import check_resumable, newest_checkpoint
from raytrainer.checkpoint.state_files import load_state
from raytrainer.errors import CheckpointError
from raytrainer.storage.store import ObjectStore
from tests.parity.twins import make_trainer, rows

pytestmark = pytest.mark.timeout(120)


def train(tmp_path, *, resume=None, **options):
    trainer = make_trainer(raytrainer, tmp_path, max_steps=4, save_strategy="steps", save_steps=2, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps with two checkpoints, its losses, and its weights."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    trainer = train(run_dir)
    return run_dir, rows(trainer), {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.fixture
def run_dir(tmp_path, finished):
    return shutil.copytree(finished[0], tmp_path / "run")


def seal(checkpoint):
    """Write the manifest that whoever changed a file would write."""
    manifest = read_manifest(checkpoint)
    files = record_files(checkpoint, manifest.files)
    (checkpoint / "manifest.json").write_text(dataclasses.replace(manifest, files=files).to_json())


class Boom:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def zero(path):
    path.unlink()
    path.symlink_to("/dev/zero")


ODD = {
    "manifest lost": (lambda path: (path / "manifest.json").unlink(), "has no manifest.json"),
    "manifest is a FIFO": (lambda path: fifo(path / "manifest.json"), "not a regular file"),
    "manifest is a device": (lambda path: zero(path / "manifest.json"), "not a regular file"),
    "manifest nests deeply": (
        lambda path: (path / "manifest.json").write_text('{"a":' * 100_000),
        "nested too deeply",
    ),
    "weights are a FIFO": (lambda path: fifo(path / "model.safetensors"), "not a regular file"),
    "state is a device": (lambda path: zero(path / "trainer_state.json"), "not a regular file"),
    "optimizer is a folder": (
        lambda path: ((path / "optimizer.pt").unlink(), (path / "optimizer.pt").mkdir()),
        "not a regular file",
    ),
}


@pytest.mark.parametrize(("damage", "said"), ODD.values(), ids=ODD)
def test_an_odd_newest_checkpoint_is_skipped_and_the_one_before_is_used(run_dir, damage, said):
    damage(run_dir / "checkpoint-4")
    reports = []
    assert newest_checkpoint(run_dir, report=reports.append) == run_dir / "checkpoint-2"
    assert len(reports) == 1
    assert "checkpoint-4 is skipped" in reports[0]
    assert said in reports[0]


@pytest.mark.parametrize(("damage", "said"), ODD.values(), ids=ODD)
def test_an_odd_checkpoint_that_was_named_is_refused(run_dir, damage, said):
    damage(run_dir / "checkpoint-4")
    with pytest.raises(CheckpointError, match=said):
        check_resumable(run_dir / "checkpoint-4")


def test_in_a_bucket_too_a_checkpoint_that_lost_its_manifest_is_skipped(run_dir, memory_bucket):
    for path in run_dir.rglob("*"):
        if path.is_file() and path.relative_to(run_dir).as_posix() != "checkpoint-4/manifest.json":
            memory_bucket.write(path.relative_to(run_dir).as_posix(), path.read_bytes())
    reports = []
    found = newest_in_bucket(ObjectStore(memory_bucket.uri), report=reports.append)
    assert found == f"{memory_bucket.uri}/checkpoint-2"
    assert "checkpoint-4 is skipped" in reports[0]


def put_shards(path):
    (path / "optimizer").mkdir()
    (path / "optimizer/values.json").write_text("{}")


def put_weights(path):
    safetensors.torch.save_file({"w": torch.ones(2)}, path / "adapter_model.safetensors")
    torch.save({"w": torch.ones(2)}, path / "pytorch_model.bin")


def put_others(path):
    (path / "scaler.pt").write_bytes(b"no pickle")
    os.mkfifo(path / "notes")
    (path / "link").symlink_to("nowhere")


@pytest.mark.parametrize("put", [put_shards, put_weights, put_others])
def test_what_others_put_into_a_checkpoint_is_not_loaded(run_dir, finished, put):
    put(run_dir / "checkpoint-2")
    resumed = train(run_dir, resume=str(run_dir / "checkpoint-2"))
    assert rows(resumed) == finished[1]
    assert all(finished[2][name].equal(value) for name, value in resumed.model.state_dict().items())


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_that_would_run_code_is_passed_over_although_its_manifest_is_right(
    run_dir, finished, name, tmp_path
):
    torch.save({"state": Boom(tmp_path / "boom")}, run_dir / "checkpoint-4" / name)
    seal(run_dir / "checkpoint-4")
    reports = []
    assert newest_checkpoint(run_dir, report=reports.append) == run_dir / "checkpoint-2"
    assert f"{name} holds " in reports[0]
    assert "mkdir" in reports[0]
    assert "weights_only" not in reports[0]
    resumed = train(run_dir, resume=True)
    assert rows(resumed) == finished[1]
    assert not (tmp_path / "boom").exists()


def test_a_pickle_that_is_no_archive_of_torch_is_passed_over(run_dir, tmp_path):
    (run_dir / "checkpoint-4/optimizer.pt").write_bytes(pickle.dumps(Boom(tmp_path / "boom")))
    seal(run_dir / "checkpoint-4")
    reports = []
    assert newest_checkpoint(run_dir, report=reports.append) == run_dir / "checkpoint-2"
    assert not (tmp_path / "boom").exists()


def test_what_torch_advises_about_a_refused_pickle_is_not_repeated(tmp_path):
    torch.save({"state": Boom(tmp_path / "boom")}, tmp_path / "optimizer.pt")
    with pytest.raises(CheckpointError) as caught:
        load_state(tmp_path / "optimizer.pt", torch.optim.SGD([torch.zeros(1)], lr=0.1))
    assert "weights_only" not in str(caught.value)
    assert "mkdir" in str(caught.value)
    assert not (tmp_path / "boom").exists()


def test_the_state_of_a_checkpoint_of_transformers_may_be_odd_too(tmp_path):
    path = tmp_path / "checkpoint-2"
    path.mkdir()
    (path / "trainer_state.json").write_text("[" * 100_000)
    reports = []
    assert newest_checkpoint(tmp_path, report=reports.append) is None
    assert "checkpoint-2 is skipped" in reports[0]
