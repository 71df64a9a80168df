"""A file that is written past the page cache holds what was put into it, wherever its file system refuses."""

from __future__ import annotations

import errno
import fcntl
import os
import random

import pytest

from raytrainer.checkpoint.background import direct
from raytrainer.checkpoint.background.direct import ALIGNMENT, CHUNK, DirectFile

CONTENT = random.Random(0).randbytes(2 * CHUNK + 3 * ALIGNMENT + 17)
SIZES = (0, 1, ALIGNMENT - 1, ALIGNMENT, ALIGNMENT + 1, CHUNK - 1, CHUNK, CHUNK + 1, len(CONTENT))


def write(path, content, piece=1_000_003):
    """Write in odd pieces; return whether any of it, and whether the end, went past the page cache."""
    with DirectFile(path) as file:
        began = file.is_direct
        for begin in range(0, len(content), piece):
            part = memoryview(content)[begin : begin + piece]
            while part:
                part = part[file.put(part) :]
                if file.is_full:
                    file.write()
        file.write()
        file.sync()
        return began, file.is_direct


@pytest.fixture
def takes_direct(tmp_path):
    """Skip where tests have no file system with direct writes."""
    with DirectFile(tmp_path / "probe") as file:
        file.put(bytes(ALIGNMENT))
        file.write()
        if not file.is_direct:
            pytest.skip("this file system has no direct writes")


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_length_holds_what_was_put_into_it(tmp_path, size):
    (tmp_path / "f").write_bytes(b"something that was there before" * 1000)
    write(tmp_path / "f", CONTENT[:size])
    assert (tmp_path / "f").read_bytes() == CONTENT[:size]


@pytest.mark.usefixtures("takes_direct")
def test_all_but_the_end_of_a_file_goes_past_the_page_cache(tmp_path, monkeypatch):
    sizes = {True: 0, False: 0}
    real = os.write

    def noted(descriptor, content):
        sizes[bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)] += len(content)
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", noted)
    write(tmp_path / "f", CONTENT)
    assert sizes == {True: len(CONTENT) - 17, False: 17}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_refuses_to_open_it_gets_it_through_the_page_cache(tmp_path, monkeypatch, number):
    real = os.open

    def refuse(path, flags, mode=0o777):
        if flags & os.O_DIRECT:
            raise OSError(number, os.strerror(number))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    assert write(tmp_path / "f", CONTENT) == (False, False)
    monkeypatch.undo()
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_file_system_that_refuses_a_write_gets_the_rest_through_the_page_cache(tmp_path, monkeypatch):
    real, seen = os.write, []

    def refuse(descriptor, content):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            seen.append(len(content))
            if len(seen) == 2:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", refuse)
    _, is_direct = write(tmp_path / "f", CONTENT)
    monkeypatch.undo()
    assert not is_direct
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize("length", [ALIGNMENT, 1000, 4 * ALIGNMENT + 512])
def test_writes_that_are_cut_short_go_on_where_they_ended(tmp_path, monkeypatch, length):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:length]))
    write(tmp_path / "f", CONTENT[: CHUNK + 100])
    monkeypatch.undo()
    assert (tmp_path / "f").read_bytes() == CONTENT[: CHUNK + 100]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_storage_that_fails_is_an_error(tmp_path, monkeypatch, number):
    def fail(descriptor, content):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        write(tmp_path / "f", CONTENT)


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        DirectFile(tmp_path / "missing" / "f")


def test_systems_without_direct_writes_go_through_the_page_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(direct, "_DIRECT", 0)
    assert write(tmp_path / "f", CONTENT) == (False, False)
    assert (tmp_path / "f").read_bytes() == CONTENT
