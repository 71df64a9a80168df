"""Which signal asks a running call to stop, and which one ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from raytrainer.runtimes.interrupts import interrupts


@pytest.fixture(autouse=True)
def raising_handlers() -> Iterator[None]:
    """SIGTERM raises here, so that a test that gets it outlives it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_the_second_sigterm_ends_the_call():
    asked: list[int] = []
    with interrupts(lambda: asked.append(1)):
        send(signal.SIGTERM)
        assert asked == [1]
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_with_jit_checkpoints_sigterm_asks_once_and_never_ends_the_call():
    asked: list[int] = []
    with interrupts(lambda: asked.append(1), sigterm_only_asks=True):
        for _ in range(3):
            send(signal.SIGTERM)
    assert asked == [1]
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_with_jit_checkpoints_ctrl_c_after_sigterm_still_ends_the_call():
    with interrupts(lambda: None, sigterm_only_asks=True):
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
