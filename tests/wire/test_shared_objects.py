"""What was stored once travels as a reference, and is fetched once in each process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raytrainer.wire import shared_objects
from raytrainer.wire.pickling import pack, unpack
from raytrainer.wire.shared_objects import StoredObject

ROWS = [list(range(1000)), list(range(1000))]
fetched: list[object] = []


def fetch(reference: object) -> object:
    fetched.append(reference)
    return [list(row) for row in ROWS]


@pytest.fixture
def rows() -> Iterator[Any]:
    value = [list(row) for row in ROWS]
    fetched.clear()
    shared_objects.register(value, StoredObject("rows", fetch, "where"))
    yield value
    shared_objects.forget(["rows"])


def test_pickle_has_the_reference_and_not_the_object(rows: Any) -> None:
    shipped = pack({"rows": rows, "again": rows})
    assert len(shipped.pickle) < 200
    assert shipped.stored["rows"].reference == "where"


def test_same_process_finds_the_object_itself(rows: Any) -> None:
    back = unpack(pack([rows]))
    assert back[0] is rows
    assert fetched == []


def test_other_process_fetches_it_once_and_passes_it_on(rows: Any) -> None:
    shipped = pack([rows, rows])
    shared_objects.forget(["rows"])  # as in a process that has never seen it
    first, second = unpack(shipped), unpack(shipped)
    assert fetched == ["where"]
    assert first[0] is first[1] is second[0]
    assert first[0] == ROWS
    assert pack(first).stored["rows"].reference == "where"


def test_forgotten_object_travels_by_value(rows: Any) -> None:
    shared_objects.forget(["rows"])
    assert pack([rows]).stored == {}
    assert unpack(pack([rows])) == [ROWS]
