"""URIs and paths: which is which, and what is below them."""

from __future__ import annotations

import pytest

from raytrainer.storage.locations import as_path, below, is_uri, join, options_of, split, without_options


@pytest.mark.parametrize(
    ("location", "expected"),
    [("s3://b/run", True), ("/a/b", False), ("runs/x", False), ("C:/runs", False), ("abfs://c@a/x", True)],
)
def test_a_uri_has_a_scheme(location, expected):
    assert is_uri(location) == expected


def test_names_go_before_the_options():
    assert join("s3://b/run/?region=eu", "checkpoint-1", "a") == "s3://b/run/checkpoint-1/a?region=eu"
    assert split("s3://b/run/checkpoint-1?region=eu") == ("s3://b/run?region=eu", "checkpoint-1")
    assert options_of("s3://b/run?region=eu&scheme=http") == {"region": "eu", "scheme": "http"}
    assert without_options("s3://b/run/?region=eu") == "s3://b/run"


def test_what_is_below_a_directory_is_a_path():
    assert below("/a/b", "logs") == "/a/b/logs"
    assert below("s3://b/run", "logs") == "s3://b/run/logs"


def test_a_file_uri_is_the_path_that_it_names():
    assert as_path("file:///data/my%20run") == "/data/my run"
    assert as_path("s3://b/run") == "s3://b/run"
    assert as_path("runs/x") == "runs/x"


@pytest.mark.parametrize("uri", ["s3://b", "s3://b/", "s3://b?region=eu", "memory://b/run"])
def test_a_bucket_is_in_its_scheme_and_joined_again_is_itself(uri):
    parent, name = split(uri)
    assert name in ("b", "run")
    assert without_options(join(parent, name)) == without_options(uri)


def test_a_scheme_alone_names_nothing():
    assert split("s3://b?region=eu") == ("s3://?region=eu", "b")
    assert without_options("s3://") == "s3://"
    assert split("s3://")[1] == ""
