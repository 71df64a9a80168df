"""Nodes try the output directory together; each rank is alone on its node here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from raytrainer.checkpoint import shared_directory
from raytrainer.checkpoint.run_storage import DiskStorage
from raytrainer.errors import ConfigurationError
from tests.fakes import FakeRuntime, FakeWorld


def outcomes(*directories: Path) -> list[Any]:
    """What each rank gets, if the path is this directory on its node."""

    def check(runtime: FakeRuntime) -> None:
        runtime.local_rank, runtime.local_world_size = 0, 1
        DiskStorage(str(directories[runtime.rank])).check_from_all(runtime)

    return FakeWorld(len(directories)).outcomes(check)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_directory, "PATIENCE_S", 0.3)
    monkeypatch.setattr(shared_directory.socket, "gethostname", lambda: "box")


def test_a_directory_that_all_nodes_share_is_taken_and_nothing_is_left_in_it(tmp_path: Path):
    assert outcomes(tmp_path, tmp_path, tmp_path) == [None, None, None]
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_another_one_on_a_node_is_refused_on_all_ranks_with_its_name(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    found = outcomes(first, first, second)
    assert [type(error) for error in found] == [ConfigurationError] * 3
    assert len({str(error) for error in found}) == 1
    assert str(found[0]) == (
        f"output_dir={str(first)!r} is not the same directory on all nodes that have workers: what box (rank 0) writes "
        "there is not seen on box (rank 2). Every node writes its part of a checkpoint: mount storage that all of them "
        'share at the same path (NFS, Lustre, EFS), or give output_dir the URI of a bucket ("s3://bucket/run").'
    )
    assert os.listdir(first) == os.listdir(second) == []


def test_a_directory_that_a_node_cannot_write_to_is_refused_with_its_name(tmp_path: Path):
    (tmp_path / "file").touch()
    found = outcomes(tmp_path, tmp_path / "file" / "run")
    assert [type(error) for error in found] == [ConfigurationError] * 2
    assert "cannot be written to on every node that has workers: box (rank 1): Not a directory." in str(
        found[0]
    )
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_appears_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read, seen = Path.read_text, []

    def late(path: Path, **options: Any) -> str:
        seen.append(path)
        if len(seen) < 2:
            raise FileNotFoundError(2, "No such file or directory")
        return read(path, **options)

    monkeypatch.setattr(Path, "read_text", late)
    assert outcomes(tmp_path, tmp_path) == [None, None]
    assert len(seen) == 2


def test_ranks_of_one_node_write_nothing(tmp_path: Path):
    def check(runtime: FakeRuntime) -> None:
        DiskStorage(str(tmp_path / "none")).check_from_all(runtime)

    assert FakeWorld(2).outcomes(check) == [None, None]
    assert not (tmp_path / "none").exists()
