"""Saves into a bucket: what counts afterwards, whichever request a process died before."""

from __future__ import annotations

import json
import threading

import pytest

from raytrainer.checkpoint.manifest import Manifest
from raytrainer.checkpoint.remote.commit import commit_to_bucket
from raytrainer.checkpoint.remote.contents import contents_of
from raytrainer.checkpoint.remote.scan import newest_in_bucket, sweep_bucket
from raytrainer.errors import CheckpointError
from raytrainer.storage.retry import Patience
from raytrainer.storage.store import ObjectStore
from tests.buckets import Fault
from tests.checkpoint.saving import FACTS, write_small_part
from tests.fakes import FakeWorld

pytestmark = pytest.mark.timeout(120)


class Killed(BaseException):
    """Stands for SIGKILL: from here on the process sends nothing."""


class Mortal(ObjectStore):
    """A store whose process dies before its N-th request."""

    def __init__(self, uri, dies_before=None):
        super().__init__(uri)
        self.dies_before = dies_before
        self.sent = []
        self.lock = threading.Lock()

    def _repeat(self, doing, name, request):
        with self.lock:
            if self.dies_before is not None and len(self.sent) >= self.dies_before:
                raise Killed
            self.sent.append(f"{doing} {name}")
        return super()._repeat(doing, name, request)


def save(store, stage, step, *, world_size=1, attempt=0, parts=None):
    world = FakeWorld(world_size, attempt=attempt)
    return world.run(
        lambda runtime: commit_to_bucket(
            store,
            stage / f"rank-{runtime.rank}",
            step,
            runtime=runtime,
            write_parts=[(parts or write_small_part)(step, runtime.rank)],
            facts=FACTS,
            keep_files=False,
        )
    )[0]


def manifest_of(bucket, name):
    return Manifest.from_json(bucket.read(f"{name}/manifest.json").decode())


def content(bucket, below):
    return {name: bucket.read(f"{below}/{name}") for name in bucket.objects(f"run/{below}/")}


def test_a_checkpoint_has_the_files_of_all_ranks_and_no_mark(bucket, proxy, tmp_path):
    saved = save(ObjectStore(bucket.uri), tmp_path, 30, world_size=2)
    assert sorted(bucket.objects()) == [
        "checkpoint-30/manifest.json",
        "checkpoint-30/nested/weights.bin",
        "checkpoint-30/rank-1.bin",
        "checkpoint-30/trainer_state.json",
    ]
    assert saved.location == f"{bucket.uri}/checkpoint-30"
    assert set(manifest_of(bucket, "checkpoint-30").files) == {
        "nested/weights.bin",
        "rank-1.bin",
        "trainer_state.json",
    }
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_manifest_is_the_last_object_that_is_written(bucket, proxy, tmp_path):
    save(ObjectStore(bucket.uri), tmp_path, 30, world_size=2)
    written = [request.key for request in proxy.requests if request.method == "PUT"]
    assert written[0] == "run/checkpoint-30/checkpoint-is-incomplete.txt"
    assert [key for key in written if not key.endswith("/")][-1] == "run/checkpoint-30/manifest.json"


def test_after_a_death_before_any_request_the_checkpoint_is_there_wholly_or_not_at_all(
    memory_bucket, tmp_path
):
    whole = Mortal(memory_bucket.uri)
    save(whole, tmp_path, 10)
    whole.sent.clear()
    save(whole, tmp_path, 20)
    num_requests = len(whole.sent)
    assert num_requests > 8
    before = content(memory_bucket, "checkpoint-10")
    outcomes = []
    for number in range(num_requests):
        ObjectStore(memory_bucket.uri).delete_folder("checkpoint-20")
        with pytest.raises(Killed):
            save(Mortal(memory_bucket.uri, dies_before=number), tmp_path, 20)
        found = newest_in_bucket(ObjectStore(memory_bucket.uri), run_id="run", report=lambda text: None)
        store = ObjectStore(memory_bucket.uri)
        sweep_bucket(store)
        assert newest_in_bucket(store, run_id="run", report=pytest.fail) == found
        outcomes.append(found == f"{memory_bucket.uri}/checkpoint-20")
        assert content(memory_bucket, "checkpoint-10") == before
        if not outcomes[-1]:
            assert memory_bucket.objects("run/checkpoint-20/") == {}, "something of the killed save is left"
        assert not contents_of(store, "checkpoint-20").is_partial
    commit = next(
        i for i, sent in enumerate(whole.sent) if "manifest.json" in sent and sent.startswith("Writing")
    )
    assert outcomes == [False] * (commit + 1) + [True] * (num_requests - commit - 1)


def test_after_a_death_while_a_checkpoint_is_replaced_its_step_is_still_there(memory_bucket, tmp_path):
    store = Mortal(memory_bucket.uri)
    save(store, tmp_path, 20)
    old = content(memory_bucket, "checkpoint-20")
    store.sent.clear()
    save(store, tmp_path, 20, attempt=1)
    num_requests = len(store.sent)
    attempts = []
    for number in range(num_requests):
        ObjectStore(memory_bucket.uri).delete_folder("checkpoint-20")
        for name, data in old.items():
            memory_bucket.write(f"checkpoint-20/{name}", data)
        with pytest.raises(Killed):
            save(Mortal(memory_bucket.uri, dies_before=number), tmp_path, 20, attempt=1)
        sweep_bucket(ObjectStore(memory_bucket.uri))
        assert newest_in_bucket(ObjectStore(memory_bucket.uri), run_id="run", report=pytest.fail) is not None
        attempts.append(manifest_of(memory_bucket, "checkpoint-20").attempt)
        assert {name.partition("/")[0] for name in memory_bucket.objects()} == {"checkpoint-20"}
    assert attempts == sorted(attempts)
    assert set(attempts) == {0, 1}


def test_a_death_in_the_sweep_loses_nothing(memory_bucket, tmp_path):
    store = Mortal(memory_bucket.uri)
    save(store, tmp_path, 20)
    replacing = Mortal(memory_bucket.uri)
    save(replacing, tmp_path, 20, attempt=1)
    manifest = next(
        i for i, sent in enumerate(replacing.sent) if sent == "Writing checkpoint-20/manifest.json"
    )
    for number in range(100):
        ObjectStore(memory_bucket.uri).delete_folder("checkpoint-20")
        save(ObjectStore(memory_bucket.uri), tmp_path, 20)
        with pytest.raises(Killed):
            save(Mortal(memory_bucket.uri, dies_before=manifest), tmp_path, 20, attempt=1)
        try:
            sweep_bucket(Mortal(memory_bucket.uri, dies_before=number))
        except Killed:
            sweep_bucket(ObjectStore(memory_bucket.uri))
            assert manifest_of(memory_bucket, "checkpoint-20").attempt == 0
            assert (
                newest_in_bucket(ObjectStore(memory_bucket.uri), run_id="run", report=pytest.fail) is not None
            )
        else:
            assert number > 5
            return
    pytest.fail("the sweep does not end")


def test_a_file_that_the_store_lost_keeps_the_checkpoint_from_being_committed(bucket, proxy, tmp_path):
    def lose(request):
        if request.method == "PUT" and request.key.endswith("weights.bin"):
            bucket.write("checkpoint-20/nested/weights.bin", b"less")

    proxy.after = lose
    with pytest.raises(
        CheckpointError, match=r"weights.bin is truncated: it has 4 bytes, its manifest says 2,000"
    ):
        save(ObjectStore(bucket.uri), tmp_path, 20)
    assert bucket.objects() == {}


def test_a_store_that_fails_for_good_fails_the_save_on_all_ranks_and_leaves_nothing(bucket, proxy, tmp_path):
    proxy.before = lambda request: (
        Fault(status=403, code="AccessDenied")
        if request.method == "PUT" and request.key.endswith("rank-1.bin")
        else None
    )
    world = FakeWorld(2)
    store = ObjectStore(bucket.uri, Patience(seconds=2))
    outcomes = world.outcomes(
        lambda runtime: commit_to_bucket(
            store,
            tmp_path / f"rank-{runtime.rank}",
            20,
            runtime=runtime,
            write_parts=[write_small_part(20, runtime.rank)],
            facts=FACTS,
            keep_files=False,
        )
    )
    assert [type(outcome) for outcome in outcomes] == [CheckpointError, CheckpointError]
    assert "because rank 1 failed" in str(outcomes[0])
    assert "credentials of this machine" in str(outcomes[1])
    assert bucket.objects() == {}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_save_that_fails_brings_back_what_it_should_have_replaced(bucket, proxy, tmp_path):
    save(ObjectStore(bucket.uri), tmp_path, 20)
    old = content(bucket, "checkpoint-20")
    proxy.before = lambda request: (
        Fault(status=403, code="AccessDenied")
        if request.method == "PUT"
        and request.key == "run/checkpoint-20/manifest.json"
        and not proxy.failed
        and not setattr(proxy, "failed", True)
        else None
    )
    proxy.failed = False
    with pytest.raises(CheckpointError, match="could not be uploaded"):
        save(ObjectStore(bucket.uri), tmp_path, 20, attempt=1)
    assert content(bucket, "checkpoint-20") == old
    assert {name.partition("/")[0] for name in bucket.objects()} == {"checkpoint-20"}


def test_a_checkpoint_that_transformers_wrote_is_kept_until_its_place_is_taken(memory_bucket, tmp_path):
    foreign = {"trainer_state.json": json.dumps({"global_step": 20}).encode(), "other.bin": b"x"}
    for number in range(100):
        ObjectStore(memory_bucket.uri).delete_folder("checkpoint-20")
        for name, data in foreign.items():
            memory_bucket.write(f"checkpoint-20/{name}", data)
        try:
            save(Mortal(memory_bucket.uri, dies_before=number), tmp_path, 20)
        except Killed:
            sweep_bucket(ObjectStore(memory_bucket.uri))
            now = content(memory_bucket, "checkpoint-20")
            kept = content(memory_bucket, "earlier-runs/unnamed/checkpoint-20")
            assert now == foreign or ("manifest.json" in now and kept == foreign)
            tops = {name.partition("/")[0] for name in memory_bucket.objects()}
            assert tops <= {"checkpoint-20", "earlier-runs"}
            ObjectStore(memory_bucket.uri).delete_folder("earlier-runs")
        else:
            assert number > 10
            return
    pytest.fail("the save does not end")
