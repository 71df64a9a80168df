"""Which machine downloads a checkpoint, and what it does with one that is damaged or here already."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrainer.checkpoint.remote import fetch
from raytrainer.errors import CheckpointError
from raytrainer.storage.store import ObjectStore
from tests.checkpoint.remote.test_commit import save
from tests.fakes import FakeWorld


@pytest.fixture
def checkpoint(memory_bucket, tmp_path):
    return save(ObjectStore(memory_bucket.uri), tmp_path, 20, world_size=2).location


def test_the_first_rank_of_each_machine_downloads_for_the_others_there(monkeypatch):
    fetched = []

    def run(runtime):
        machine = runtime.rank // 2
        runtime.local_rank = runtime.rank % 2
        monkeypatch.setattr(
            fetch, "fetch_verified", lambda uri: fetched.append(uri) or Path(f"copy-{len(fetched)}")
        )
        return machine, fetch.local_copy("s3://b/run/checkpoint-1", runtime)

    found = FakeWorld(4).run(run)
    assert len(fetched) == 2
    assert found[0][1] == found[1][1]
    assert found[2][1] == found[3][1]
    assert found[0][1] != found[2][1]


def test_a_machine_that_cannot_read_fails_all_ranks(checkpoint, memory_bucket):
    memory_bucket.write(
        "checkpoint-20/rank-1.bin", b"x" * len(memory_bucket.read("checkpoint-20/rank-1.bin"))
    )
    world = FakeWorld(2)
    outcomes = world.outcomes(lambda runtime: fetch.local_copy(checkpoint, runtime))
    assert [type(outcome) for outcome in outcomes] == [CheckpointError, CheckpointError]
    assert f"{checkpoint}/rank-1.bin is damaged" in str(outcomes[0])


def test_what_is_here_already_is_not_downloaded_again(checkpoint, monkeypatch):
    first = fetch.fetch_verified(checkpoint)
    monkeypatch.setattr(ObjectStore, "get", lambda *args: pytest.fail("downloaded"))
    assert fetch.fetch_verified(checkpoint) == first


def test_a_checkpoint_that_was_replaced_is_downloaded_anew(checkpoint, memory_bucket, tmp_path):
    path = fetch.fetch_verified(checkpoint)
    before = (path / "manifest.json").read_text()
    save(ObjectStore(memory_bucket.uri), tmp_path, 20, world_size=2, attempt=1)
    fetch.fetch_verified(checkpoint)
    assert (path / "manifest.json").read_text() != before


def test_a_checkpoint_that_is_not_there_names_those_that_are(checkpoint, memory_bucket):
    with pytest.raises(
        CheckpointError, match=r"there is nothing\. In .* there are checkpoint-20; name one of them"
    ):
        fetch.fetch(f"{memory_bucket.uri}/checkpoint-30")
