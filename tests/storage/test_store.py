"""What a store does with objects, on S3 and through fsspec."""

from __future__ import annotations

import pytest

from raytrainer.storage.store import ObjectStore


@pytest.fixture(params=["bucket", "memory_bucket"])
def store(request, proxy):
    return ObjectStore(request.getfixturevalue(request.param).uri)


def test_objects_are_put_got_listed_copied_and_deleted(store, tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    assert store.list() == {}
    assert store.folders() == []
    store.put(tmp_path / "a", "checkpoint-1/deep/a")
    store.put_text("checkpoint-1/b", "text")
    store.put_text("c", "")
    assert store.list() == {"checkpoint-1/deep/a": 7, "checkpoint-1/b": 4, "c": 0}
    assert store.list("checkpoint-1") == {"deep/a": 7, "b": 4}
    assert store.folders() == ["checkpoint-1"]
    store.copy("checkpoint-1/deep/a", "copied/a")
    store.get("copied/a", tmp_path / "back" / "a")
    assert (tmp_path / "back" / "a").read_bytes() == b"content"
    assert store.get_range("copied/a", 2, 3) == b"nte"
    assert store.get_text("checkpoint-1/b") == "text"
    assert [store.exists(name) for name in ("c", "checkpoint-1", "d")] == [True, False, False]
    store.delete("c")
    store.delete("c")
    store.delete_folder("checkpoint-1")
    store.delete_folder("checkpoint-1")
    assert store.list() == {"copied/a": 7}


def test_an_object_that_does_not_exist_is_an_error_at_once(store, tmp_path, caplog):
    with pytest.raises(FileNotFoundError):
        store.get_text("nothing")
    with pytest.raises(FileNotFoundError):
        store.get("nothing", tmp_path / "nothing")
    assert "tried again" not in caplog.text


def test_an_object_is_replaced_as_a_whole(store):
    store.put_text("a", "long text")
    store.put_text("a", "short")
    assert store.get_text("a") == "short"


def test_a_bucket_that_is_missing_is_told_apart_from_an_empty_one(bucket, proxy):
    assert ObjectStore(bucket.uri).missing_bucket() is None
    assert ObjectStore("s3://no-such-bucket/run").missing_bucket() == "no-such-bucket"


def test_an_object_has_an_age_and_one_that_does_not_exist_has_none(bucket, proxy):
    store = ObjectStore(bucket.uri)
    store.put_text("a", "text")
    age = store.age_of("a")
    assert age is not None
    assert -2 < age < 30
    assert store.age_of("b") is None


def test_errors_of_a_client_that_are_no_oserrors_are_requests_that_failed(memory_bucket, monkeypatch, caplog):
    store = ObjectStore(memory_bucket.uri)
    failures = [RuntimeError("HttpError 503"), RuntimeError("HttpError 503")]

    def info(self, path, **options):
        if failures:
            raise failures.pop()
        raise FileNotFoundError(path)

    monkeypatch.setattr(type(memory_bucket._files), "info", info)
    assert store.exists("a") is False
    assert caplog.text.count("RuntimeError: HttpError 503") == 2
