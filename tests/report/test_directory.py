"""What is fetched of a run in a bucket, also while it is killed, deleted or missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrainer.checkpoint.names import INCOMPLETE_NAME
from raytrainer.errors import ConfigurationError
from raytrainer.report.directory import run_directory
from raytrainer.report.record import read_record
from raytrainer.storage.store import ObjectStore
from tests.buckets import Bucket, MemoryBucket, Proxy


def with_checkpoint(bucket: MemoryBucket, step: int) -> None:
    bucket.write(f"checkpoint-{step}/trainer_state.json", b'{"max_steps": 9, "log_history": []}')
    bucket.write(f"checkpoint-{step}/manifest.json", b"{}")


def test_a_checkpoint_whose_upload_was_killed_is_left_out(memory_bucket: MemoryBucket):
    with_checkpoint(memory_bucket, 4)
    memory_bucket.write(f"checkpoint-6/{INCOMPLETE_NAME}", b"")
    memory_bucket.write("checkpoint-6/model.safetensors", b"half")
    with run_directory(memory_bucket.uri) as directory:
        record = read_record(directory)
    assert [save.step for save in record.saves] == [4]
    assert record.max_steps == 9


def test_a_checkpoint_that_is_deleted_meanwhile_is_no_error(
    memory_bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
):
    with_checkpoint(memory_bucket, 4)
    listed = ObjectStore.list

    def then_deleted(self: ObjectStore, folder: str = "") -> dict[str, int]:
        found = listed(self, folder)
        self.delete_folder("checkpoint-4")
        return found

    monkeypatch.setattr(ObjectStore, "list", then_deleted)
    with run_directory(memory_bucket.uri) as directory:
        assert [save.step for save in read_record(directory).saves] == [4]


def test_a_bucket_that_does_not_exist_is_named(bucket: Bucket, proxy: Proxy):
    del proxy
    with (
        pytest.raises(ConfigurationError, match="there is no bucket 'no-such-bucket'"),
        run_directory("s3://no-such-bucket/run"),
    ):
        pass
    with pytest.raises(ConfigurationError, match="holds no run"), run_directory(bucket.uri):
        pass


def test_a_directory_is_read_where_it_is(tmp_path: Path):
    (tmp_path / "checkpoint-1").mkdir()
    with run_directory(str(tmp_path)) as directory:
        assert directory == tmp_path
