"""``raytrainer verify`` says whether checkpoints are intact, and ends with 1 if one is not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import raytrainer
from raytrainer.cli.main import main
from tests.buckets import MemoryBucket
from tests.checkpoint.saving import as_an_earlier_version
from tests.parity.twins import make_trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    make_trainer(
        raytrainer, directory, max_steps=2, save_strategy="steps", save_steps=1, report_page=False
    ).train()
    return directory


def test_an_intact_checkpoint_says_what_it_holds(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", str(trained / "checkpoint-2")]) == 0
    text = capsys.readouterr().out
    assert "checkpoint-2: intact" in text
    assert "any number of workers" in text
    assert "weights, optimizer, schedule, random state, trainer state" in text
    assert re.search(r"written  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, by 1 worker\n", text)


def test_all_checkpoints_of_a_run_are_checked(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", str(trained), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["step"], one["intact"]) for one in found] == [(1, True), (2, True)]
    assert found[0]["other_versions_here"] == {}
    assert found[0]["workers"] == 1


def test_it_says_by_which_hash_files_were_compared(trained: Path, tmp_path: Path, capsys):
    earlier = Path(shutil.copytree(trained / "checkpoint-1", tmp_path / "checkpoint-1"))
    as_an_earlier_version(earlier)
    assert main(["verify", str(trained / "checkpoint-1"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["verified"] == "sizes and XXH3 of 128 bits of all files"
    assert main(["verify", str(earlier), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["verified"] == "sizes and SHA-256 of all files"


def test_a_damaged_checkpoint_is_named_and_ends_with_1(trained: Path, capsys: pytest.CaptureFixture[str]):
    weights = trained / "checkpoint-1" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        assert main(["verify", str(trained)]) == 1
    finally:
        weights.write_bytes(content)
    text = capsys.readouterr().out
    assert "checkpoint-1: DAMAGED" in text
    assert "model.safetensors" in text
    assert "checkpoint-2: intact" in text


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", str(tmp_path)]) == 2
    assert "Name a checkpoint-N" in capsys.readouterr().err


def test_all_checkpoints_of_a_run_in_a_bucket_are_checked(
    trained: Path, memory_bucket: MemoryBucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for path in trained.rglob("checkpoint-*/*"):
        memory_bucket.write(str(path.relative_to(trained)), path.read_bytes())
    memory_bucket.write("checkpoint-2/config.json", b"{}")
    assert main(["verify", memory_bucket.uri, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["checkpoint"], one["intact"]) for one in found] == [
        (f"{memory_bucket.uri}/checkpoint-1", True),
        (f"{memory_bucket.uri}/checkpoint-2", False),
    ]
    assert f"{memory_bucket.uri}/checkpoint-2/config.json is truncated" in found[1]["problem"]
    assert not list((tmp_path / "stage").rglob("checkpoint-*"))


def test_a_uri_without_a_checkpoint_is_refused_and_others_are_named(
    memory_bucket: MemoryBucket, capsys: pytest.CaptureFixture[str]
):
    assert main(["verify", memory_bucket.uri]) == 2
    assert "there is nothing" in capsys.readouterr().err
    memory_bucket.write("checkpoint-7/trainer_state.json", b"{}")
    assert main(["verify", f"{memory_bucket.uri}/checkpoint-8"]) == 2
    assert "there are checkpoint-7" in capsys.readouterr().err


def test_an_error_about_a_copy_names_the_bucket(
    memory_bucket: MemoryBucket, capsys: pytest.CaptureFixture[str]
):
    memory_bucket.write("checkpoint-7/trainer_state.json", b"no json")
    assert main(["verify", memory_bucket.uri]) == 1
    assert f"{memory_bucket.uri}/checkpoint-7/trainer_state.json cannot be read" in capsys.readouterr().out
