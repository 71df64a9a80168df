"""What a person reads, before anything starts, when a bucket cannot be used as output_dir."""

from __future__ import annotations

import pytest

import raytrainer
from raytrainer.errors import ConfigurationError, MissingPackageError
from raytrainer.preflight.output_dir import check_output_dir
from raytrainer.storage import probe
from raytrainer.storage.retry import Patience
from tests.buckets import Fault


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(probe, "BEFORE_A_RUN", Patience(seconds=0.5, first_pause_s=0.1))


def test_a_bucket_that_can_be_used_is_left_as_it_was(bucket, proxy):
    assert check_output_dir(bucket.uri) == bucket.uri
    assert bucket.objects() == {}


def test_a_bucket_that_does_not_exist_is_named(proxy):
    with pytest.raises(ConfigurationError, match=r"there is no bucket 'nowhere-at-all'\. Create it"):
        check_output_dir("s3://nowhere-at-all/run")


def test_missing_credentials_are_told_from_insufficient_ones(bucket, proxy, monkeypatch, tmp_path):
    proxy.before = lambda request: Fault(status=403, code="AccessDenied")
    with pytest.raises(ConfigurationError, match="the credentials of this process may not do that"):
        check_output_dir(bucket.uri)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"has no credentials\. They come from AWS_ACCESS_KEY_ID"):
        check_output_dir(bucket.uri)


def test_a_bucket_that_may_only_be_read_is_refused(bucket, proxy):
    proxy.before = lambda request: Fault(status=403, code="AccessDenied") if request.method == "PUT" else None
    with pytest.raises(ConfigurationError, match="must be allowed to read, write, list and delete"):
        check_output_dir(bucket.uri)


def test_a_bucket_that_may_not_be_read_is_refused(bucket, proxy):
    proxy.before = lambda request: (
        Fault(status=403, code="AccessDenied")
        if request.method == "GET" and ".writable-" in request.path.partition("?")[0]
        else None
    )
    with pytest.raises(ConfigurationError, match="must be allowed to read, write, list and delete"):
        check_output_dir(bucket.uri)


def test_a_bucket_that_keeps_what_should_be_deleted_is_refused(bucket, proxy):
    proxy.before = lambda request: (
        Fault(status=403, code="AccessDenied") if request.method == "DELETE" else None
    )
    with pytest.raises(ConfigurationError, match="must be allowed to read, write, list and delete"):
        check_output_dir(bucket.uri)


def test_keys_that_are_not_valid_are_told_from_keys_that_may_not(bucket, proxy):
    proxy.before = lambda request: Fault(status=403, code="InvalidAccessKeyId")
    with pytest.raises(ConfigurationError, match="credentials of this process are not valid"):
        check_output_dir(bucket.uri)


def test_a_server_that_does_not_answer_is_refused_after_some_tries(bucket, proxy, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match=r"does not answer.*AWS_ENDPOINT_URL"):
        check_output_dir(bucket.uri)


@pytest.mark.parametrize(
    ("uri", "error", "text"),
    [
        ("nosuch://bucket/run", ConfigurationError, "is not a scheme that pyarrow or fsspec knows"),
        ("sftp://host/run", MissingPackageError, "sftp:// needs a package that is not installed here"),
        ("s3:///run", ConfigurationError, "names no bucket"),
        (
            "s3://bucket/run?regoin=eu-west-1",
            ConfigurationError,
            "has the option 'regoin', which S3 does not have",
        ),
        ("s3://bucket/run?request_timeout=soon", ConfigurationError, "where seconds were expected"),
        ("az://container/run", ConfigurationError, "Set AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_a_uri_that_cannot_be_opened_is_refused_with_what_to_do(uri, error, text, monkeypatch):
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(error, match=text):
        check_output_dir(uri)


@pytest.mark.parametrize("uri", ["s3://key:hidden@bucket/run", "s3://bucket/run?secret_key=hidden"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri):
    with pytest.raises(ConfigurationError, match="Leave credentials out") as caught:
        raytrainer.TrainingArguments(output_dir=uri, num_workers=0)
    assert "hidden" not in str(caught.value)
