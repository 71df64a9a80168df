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
