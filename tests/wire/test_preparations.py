"""What a worker does before it unpacks anything."""

from __future__ import annotations

from raytrainer.wire import preparations

CALLS: list[str] = []


def call_first() -> None:
    CALLS.append("first")


def call_second() -> None:
    CALLS.append("second")


def test_each_function_is_called_once_in_the_order_in_which_it_was_named(monkeypatch):
    monkeypatch.setattr(preparations, "_preparations", {})
    for name in ("call_first", "call_second", "call_first"):
        preparations.prepare_workers_with(f"{__name__}:{name}")
    preparations.prepare(preparations.preparations())
    assert CALLS == ["first", "second"]
