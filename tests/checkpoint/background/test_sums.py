"""The CRC-32 of zlib, by whichever package computes it."""

from __future__ import annotations

import importlib
import sys
import zlib

import pytest

from raytrainer.checkpoint.background import sums


@pytest.fixture(params=["as installed", "without zlib-ng"])
def crc32(request, monkeypatch):
    if request.param == "without zlib-ng":
        monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
        yield importlib.reload(sums).crc32
        monkeypatch.undo()
        importlib.reload(sums)
        return
    yield sums.crc32


def test_sums_are_those_of_zlib(crc32):
    content = bytes(range(256)) * 1000
    assert crc32(content, 0) == zlib.crc32(content)
    assert crc32(memoryview(content)[7:], crc32(content[:7], 0)) == zlib.crc32(content)
    assert crc32(b"", 5) == 5


def test_zlib_computes_them_where_zlib_ng_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
    try:
        assert importlib.reload(sums).crc32 is zlib.crc32
    finally:
        monkeypatch.undo()
        importlib.reload(sums)


@pytest.mark.skipif(sys.platform != "linux", reason="zlib-ng is required on Linux only")
def test_zlib_ng_computes_them_where_it_is_installed():
    zlib_ng = pytest.importorskip("zlib_ng.zlib_ng")
    assert sums.crc32 is zlib_ng.crc32
