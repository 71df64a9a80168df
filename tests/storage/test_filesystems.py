"""Which file system a URI opens, and with what; nothing is sent."""

from __future__ import annotations

import pytest

from raytrainer.storage.filesystems import open_filesystem


def test_the_endpoint_of_the_environment_is_taken_unless_the_uri_names_one(proxy, monkeypatch, bucket):
    system, path = open_filesystem("s3://bucket/run/")
    assert (system.type_name, path) == ("s3", "bucket/run")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    named = f"{bucket.uri}?scheme=http&endpoint_override=127.0.0.1:{proxy.port}"
    system, path = open_filesystem(named)
    assert system.get_file_info(path.split("/")[0]).is_file is False
    assert proxy.requests


@pytest.mark.parametrize(
    ("uri", "type_name", "path"),
    [
        ("gs://bucket/run", "gcs", "bucket/run"),
        ("abfs://container@account.dfs.core.windows.net/run", "abfs", "container/run"),
        ("az://container/run", "abfs", "container/run"),
        ("memory://bucket/run", "py::fsspec+memory", "/bucket/run"),
    ],
)
def test_other_stores_are_opened_by_pyarrow_or_through_fsspec(uri, type_name, path, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    system, found = open_filesystem(uri)
    assert (system.type_name, found.rstrip("/")) == (type_name, path)
