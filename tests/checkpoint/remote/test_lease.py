"""One run at a time writes into a bucket, and a run that died loses it."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from raytrainer.checkpoint import lease as on_disk
from raytrainer.checkpoint.remote import lease
from raytrainer.errors import ConfigurationError
from raytrainer.storage.store import ObjectStore

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(on_disk, "PATIENCE_S", 0.1)
    monkeypatch.setattr(on_disk, "STALE_S", 0.3)
    monkeypatch.setattr(lease, "SETTLE_S", 0.01)


def take(bucket, run_id="mine"):
    said = []
    with lease.held_bucket(ObjectStore(bucket.uri), run_id, report=said.append):
        assert json.loads(bucket.read(on_disk.NAME))["run_id"] == run_id
    return said


def put(bucket, **fields):
    holder = {
        "run_id": "other",
        "machine": "node-7/boot/1",
        "pid": 1,
        "started": 0.0,
        "since": "then",
        "beat": 0,
    }
    bucket.write(on_disk.NAME, json.dumps({**holder, **fields}).encode())


def test_a_bucket_that_a_living_run_holds_is_refused_and_the_error_names_the_process(memory_bucket):
    with lease.held_bucket(ObjectStore(memory_bucket.uri), "other", report=pytest.fail):
        with pytest.raises(ConfigurationError, match=f"is in use by another run .process {os.getpid()} on"):
            take(memory_bucket)
        with pytest.raises(ConfigurationError, match="give this run another output_dir"):
            lease.check_bucket_free(ObjectStore(memory_bucket.uri), report=lambda text: None)
    assert memory_bucket.objects() == {}
    assert take(memory_bucket) == []


def test_a_process_that_was_killed_loses_the_bucket_at_once(memory_bucket):
    put(memory_bucket, machine=on_disk._machine(), pid=2**22 + 1)
    lease.check_bucket_free(ObjectStore(memory_bucket.uri), report=pytest.fail)
    assert take(memory_bucket) == []


def test_a_later_attempt_of_a_run_takes_over_from_the_earlier_one(memory_bucket):
    put(memory_bucket, run_id="mine")
    assert take(memory_bucket) == []


@pytest.mark.parametrize("content", [None, b"no JSON", b"[]", b"5"])
def test_a_silent_run_on_another_machine_is_waited_for_and_then_taken_over(memory_bucket, content):
    put(memory_bucket)
    if content is not None:
        memory_bucket.write(on_disk.NAME, content)
    said = take(memory_bucket)
    assert "may be in use by another run" in said[0]
    assert "gave no sign of life" in said[1]


def test_a_run_on_another_machine_that_beats_is_alive(memory_bucket, monkeypatch):
    monkeypatch.setattr(on_disk, "STALE_S", 20.0)
    is_over = threading.Event()

    def beat():
        number = 0
        while not is_over.wait(0.02):
            number += 1
            put(memory_bucket, beat=number)

    put(memory_bucket)
    beats = threading.Thread(target=beat)
    beats.start()
    try:
        with pytest.raises(ConfigurationError, match="on node-7, since then"):
            take(memory_bucket)
    finally:
        is_over.set()
        beats.join()


def test_the_holder_renews_its_lease_and_stops_when_somebody_took_it_away(memory_bucket, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    with lease.held_bucket(ObjectStore(memory_bucket.uri), "mine", report=pytest.fail):
        first, deadline = memory_bucket.read(on_disk.NAME), time.monotonic() + 20
        while memory_bucket.read(on_disk.NAME) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert memory_bucket.read(on_disk.NAME) != first
        put(memory_bucket)
    assert json.loads(memory_bucket.read(on_disk.NAME))["run_id"] == "other"


def test_a_bucket_is_held_while_its_process_lives(memory_bucket):
    store = ObjectStore(memory_bucket.uri)
    assert lease.is_held_bucket(store) is None
    with lease.held_bucket(store, "mine", report=pytest.fail):
        assert lease.is_held_bucket(store) is True
    put(memory_bucket, machine=on_disk._machine(), pid=2**22 + 1)
    assert lease.is_held_bucket(store) is False


@pytest.mark.parametrize(("age_s", "held"), [(0.1, True), (1.0, False), (None, None)])
def test_a_bucket_that_another_machine_holds_is_held_until_its_lease_is_old(
    memory_bucket, monkeypatch, age_s, held
):
    put(memory_bucket)
    monkeypatch.setattr(ObjectStore, "age_of", lambda self, name: age_s)
    assert lease.is_held_bucket(ObjectStore(memory_bucket.uri)) is held
