"""A manifest is read back exactly as written, or rejected."""

from __future__ import annotations

import contextlib
import datetime
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrainer.checkpoint.digests import LENGTHS
from raytrainer.checkpoint.manifest import FileRecord, Manifest, current_versions, digest_of, read_manifest
from raytrainer.errors import CheckpointError

texts = st.text(st.characters(codec="utf-8"), max_size=20)
manifests = st.builds(
    Manifest,
    step=st.integers(0, 10**9),
    epoch=st.floats(0, 1e6),
    world_size=st.integers(1, 4096),
    samples_consumed=st.integers(0, 10**15),
    global_batch_size=st.integers(1, 10**6),
    run_id=texts,
    attempt=st.integers(0, 100),
    files=st.dictionaries(
        st.text("abc./-", min_size=1).filter(
            lambda name: not name.startswith("/") and ".." not in name and name.strip("./")
        ),
        st.sampled_from(sorted(LENGTHS)).flatmap(
            lambda algorithm: st.builds(
                FileRecord,
                size=st.integers(0, 10**12),
                digest=st.text("0123456789abcdef", min_size=LENGTHS[algorithm], max_size=LENGTHS[algorithm]),
                algorithm=st.just(algorithm),
            )
        ),
        min_size=1,
        max_size=4,
    ),
    versions=st.dictionaries(texts, texts, max_size=3),
    created_at=st.datetimes(datetime.datetime(2000, 1, 1), timezones=st.just(datetime.UTC)).map(
        datetime.datetime.isoformat
    ),
    model_signature=texts,
    continues=st.lists(texts, max_size=2).map(tuple),
)


@given(manifest=manifests)
def test_a_manifest_comes_back_as_it_was_written(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest


@given(manifest=manifests, data=st.data())
def test_no_changed_byte_goes_unnoticed(manifest, data):
    raw = bytearray(manifest.to_json().encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(ValueError):
        assert Manifest.from_json(raw.decode()) == manifest  # a byte that means nothing, such as white space


def write(tmp_path, change):
    manifest = Manifest(
        step=1,
        epoch=0.1,
        world_size=1,
        samples_consumed=1,
        global_batch_size=1,
        run_id="",
        attempt=0,
        files={"a": FileRecord(size=1, digest="0" * 32)},
        versions=current_versions(),
        created_at="2026-01-01T00:00:00+00:00",
        model_signature="",
    )
    (tmp_path / "manifest.json").write_text(change(manifest.to_json()))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "\x00\xff garbage",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: json.dumps({**json.loads(text), "step": 2}),
        lambda text: json.dumps({"format": 1}),
    ],
    ids=["empty", "garbage", "half", "list", "object", "changed", "fields"],
)
def test_a_damaged_manifest_is_as_good_as_none(tmp_path, change):
    write(tmp_path, change)
    with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read as a manifest"):
        read_manifest(tmp_path)


def test_a_manifest_of_a_later_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("raytrainer.checkpoint.manifest.FORMAT", 3)
    write(tmp_path, lambda text: text)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format is none of those that this version reads, 1 and 2"):
        read_manifest(tmp_path)


def test_a_manifest_cannot_name_files_outside_of_its_checkpoint():
    manifest = Manifest(
        **dict.fromkeys(
            ("step", "epoch", "world_size", "samples_consumed", "global_batch_size", "attempt"), 0
        ),
        **dict.fromkeys(("run_id", "model_signature"), ""),
        created_at="2026-01-01T00:00:00+00:00",
        files={"../other": FileRecord(size=1, digest="0" * 32)},
        versions={},
    )
    with pytest.raises(ValueError, match="outside"):
        Manifest.from_json(manifest.to_json())


def test_a_directory_without_a_manifest_was_never_committed(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no manifest\.json, so it was never committed"):
        read_manifest(tmp_path)


RECORD = {"size": 1, "sha256": "0" * 64}
ODD = {
    "no files": {"files": {}},
    "list of files": {"files": []},
    "size is text": {"files": {"a": {**RECORD, "size": "1"}}},
    "size is None": {"files": {"a": {**RECORD, "size": None}}},
    "size is a list": {"files": {"a": {**RECORD, "size": [1]}}},
    "size is true": {"files": {"a": {**RECORD, "size": True}}},
    "size is negative": {"files": {"a": {**RECORD, "size": -1}}},
    "hash is a number": {"files": {"a": {**RECORD, "sha256": 5}}},
    "hash is short": {"files": {"a": {**RECORD, "sha256": "ab"}}},
    "hash has the length of another": {"files": {"a": {"size": 1, "xxh3_128": "0" * 64}}},
    "hash is unknown": {"files": {"a": {"size": 1, "md5": "0" * 32}}},
    "no hash": {"files": {"a": {"size": 1}}},
    "two hashes": {"files": {"a": {**RECORD, "xxh3_128": "0" * 32}}},
    "record is a text": {"files": {"a": "b"}},
    "more in a record": {"files": {"a": {**RECORD, "mode": 1}}},
    "NUL in a name": {"files": {"a\0b": RECORD}},
    "long name": {"files": {"a" * 5000: RECORD}},
    "empty name": {"files": {"": RECORD}},
    "surrogate in a name": {"files": {"\ud800" * 3000: RECORD}},
    "time is a number": {"created_at": 5},
    "time is no time": {"created_at": "yesterday"},
    "step is a text": {"step": "5"},
    "step is a fraction": {"step": 1.5},
    "epoch is NaN": {"epoch": float("nan")},
    "run is None": {"run_id": None},
    "predecessors are a text": {"continues": "run"},
    "versions are numbers": {"versions": {"torch": 2}},
    "unknown field": {"more": 1},
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_a_manifest_of_odd_content_counts_as_damaged_although_its_hash_is_right(tmp_path, change):
    def odd(text):
        body = {**json.loads(text), **change}
        body.pop("digest")
        return json.dumps({**body, "digest": digest_of(body)})

    write(tmp_path, odd)
    with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read as a manifest: it"):
        read_manifest(tmp_path)


def test_a_manifest_that_is_nested_too_deeply_counts_as_damaged(tmp_path):
    write(tmp_path, lambda text: "[" * 200_000)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read_manifest(tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_manifest_that_is_no_file_counts_as_damaged(tmp_path, make):
    make(tmp_path / "manifest.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_manifest(tmp_path)


def test_a_manifest_without_predecessors_is_one_of_an_earlier_version_and_is_read(tmp_path):
    def earlier(text):
        body = json.loads(text)
        del body["continues"], body["digest"]
        return json.dumps({**body, "digest": digest_of(body)})

    write(tmp_path, earlier)
    assert read_manifest(tmp_path).continues == ()
