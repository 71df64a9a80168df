"""A manifest is read back exactly as written, or rejected."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrainer.checkpoint.manifest import FileRecord, Manifest, current_versions, read_manifest
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
        st.text("abc./-", min_size=1).filter(lambda name: not name.startswith("/") and ".." not in name),
        st.builds(FileRecord, size=st.integers(0, 10**12), sha256=texts),
        max_size=4,
    ),
    versions=st.dictionaries(texts, texts, max_size=3),
    created_at=texts,
    model_signature=texts,
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
        files={},
        versions=current_versions(),
        created_at="",
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
    monkeypatch.setattr("raytrainer.checkpoint.manifest.FORMAT", 2)
    write(tmp_path, lambda text: text)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format is not 1"):
        read_manifest(tmp_path)


def test_a_manifest_cannot_name_files_outside_of_its_checkpoint():
    manifest = Manifest(
        **dict.fromkeys(
            ("step", "epoch", "world_size", "samples_consumed", "global_batch_size", "attempt"), 0
        ),
        **dict.fromkeys(("run_id", "created_at", "model_signature"), ""),
        files={"../other": FileRecord(size=1, sha256="")},
        versions={},
    )
    with pytest.raises(ValueError, match="outside"):
        Manifest.from_json(manifest.to_json())


def test_a_directory_without_a_manifest_was_never_committed(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no manifest\.json, so it was never committed"):
        read_manifest(tmp_path)
