from __future__ import annotations

import os
import sys
import sysconfig

import pytest

from raytrainer.wire.search_path import SearchPath, extend_search_path, is_installed, search_path

SITE = sysconfig.get_path("purelib")


@pytest.fixture(autouse=True)
def own_search_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_entries_keep_their_side_of_the_installed_packages(tmp_path):
    for name in ("first", "second", "last"):
        (tmp_path / name).mkdir()
    first, second, last = (str(tmp_path / name) for name in ("first", "second", "last"))
    sys.path[:] = [first, second, SITE, last]
    sent = search_path()
    assert sent == SearchPath(before=(first, second), after=(last,))
    sys.path[:] = ["/own", second, SITE]
    extend_search_path(sent)
    assert sys.path == [first, second, "/own", SITE, last]


def test_the_working_directory_of_the_driver_is_named():
    sys.path[:] = ["", SITE]
    assert search_path().before == (os.getcwd(),)


def test_installed_packages_and_missing_directories_are_not_sent(tmp_path):
    sys.path[:] = [sysconfig.get_path("stdlib"), SITE, str(tmp_path / "missing")]
    assert search_path() == SearchPath()


def test_a_copy_of_a_directory_is_searched_before_it(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "copy").mkdir()
    mine, copy = str(tmp_path / "mine"), str(tmp_path / "copy")
    sys.path[:] = [SITE]
    extend_search_path(SearchPath(before=(mine,)), {mine: copy})
    assert sys.path == [copy, mine, SITE]


def test_a_directory_that_begins_like_that_of_installed_packages_is_not_one_of_them():
    assert is_installed(SITE)
    assert is_installed(os.path.join(SITE, "torch"))
    assert not is_installed(sysconfig.get_path("stdlib") + "-of-mine")
