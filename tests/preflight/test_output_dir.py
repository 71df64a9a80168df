"""Whether a run can be written to its output directory."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from raytrainer import ConfigurationError
from raytrainer.preflight.output_dir import check_output_dir


def test_directories_are_made_and_nothing_is_left_in_them(tmp_path):
    path = check_output_dir(tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b"
    assert list(path.iterdir()) == []


def test_a_relative_path_becomes_absolute():
    assert check_output_dir("runs/x") == Path.cwd() / "runs" / "x"


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_the_way_is_named(tmp_path, below):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigurationError, match="taken' is a file"):
        check_output_dir(tmp_path / "taken" / below)


def test_a_directory_that_cannot_be_made_names_what_exists(tmp_path, monkeypatch):
    def refuse(self: Path, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigurationError, match=f"cannot be written to: Permission denied.*'{tmp_path}'"):
        check_output_dir(tmp_path / "a" / "b")


def test_a_directory_that_takes_no_file_is_refused(tmp_path, monkeypatch):
    def refuse(**options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(ConfigurationError, match="Read-only file system"):
        check_output_dir(tmp_path)
