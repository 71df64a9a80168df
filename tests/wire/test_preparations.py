"""What a worker does before it unpacks anything."""

from __future__ import annotations

from raytrainer.wire import preparations

CALLS: list[str] = []


def call_first() -> None:
    CALLS.append("first")


def call_second() -> None:
    CALLS.append("second")


def call_with(text: str) -> None:
    CALLS.append(text)


def test_each_function_is_called_once_in_the_order_in_which_it_was_named(monkeypatch):
    CALLS.clear()
    monkeypatch.setattr(preparations, "_before", {})
    for name in ("call_first", "call_second", "call_first"):
        preparations.prepare_workers_with(f"{__name__}:{name}")
    preparations.call_all(preparations.preparations().before)
    assert CALLS == ["first", "second"]


def test_what_a_constructor_did_is_repeated_until_another_trainer_is_constructed(monkeypatch):
    CALLS.clear()
    monkeypatch.setattr(preparations, "_after", {})
    preparations.repeat_on_workers(f"{__name__}:call_with", "earlier")
    preparations.repeat_on_workers(f"{__name__}:call_with", "later")
    preparations.call_all(preparations.preparations().after)
    assert CALLS == ["later"]
    preparations.forget_repeats()
    assert preparations.preparations().after == ()
