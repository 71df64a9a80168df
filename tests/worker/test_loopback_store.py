"""Ranks of one machine meet at a port that other machines cannot reach."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta

import psutil
import pytest

from raytrainer.worker.loopback_store import store_of_one_machine
from raytrainer.worker.meeting_port import LOOPBACK, close_port, open_port

TIMEOUT = timedelta(seconds=20)


pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that rank 0 has opened and that all ranks have been told."""
    opened = open_port()
    monkeypatch.setenv("MASTER_ADDR", LOOPBACK)
    monkeypatch.setenv("MASTER_PORT", str(opened))
    yield opened
    close_port()


def test_the_store_of_one_machine_listens_on_the_loopback_only(port: int) -> None:
    first = store_of_one_machine(0, 2, TIMEOUT)
    assert first is not None
    stores = []
    other = threading.Thread(target=lambda: stores.append(store_of_one_machine(1, 2, TIMEOUT)))
    other.start()
    other.join(30)
    stores[0].set("key", "value")
    assert first.get("key") == b"value"
    listening = {
        each.laddr.ip
        for each in psutil.Process().net_connections(kind="inet")
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port
    }
    assert listening == {LOOPBACK}


def test_a_rank_that_is_ahead_of_rank_0_is_let_in(port: int) -> None:
    """Torch's own way to try again takes a quarter of a second at least."""
    with socket.create_connection((LOOPBACK, port), timeout=20) as ahead:
        first = store_of_one_machine(0, 2, TIMEOUT)
        assert first is not None
        assert ahead.getpeername() == (LOOPBACK, port)
        # What was let in early does not keep the others out, even if it never speaks.
        other = store_of_one_machine(1, 2, TIMEOUT)
        assert other is not None
        other.set("key", "value")
        assert first.get("key") == b"value"


def test_a_port_that_nobody_took_is_closed_when_ranks_start_again(port: int) -> None:
    again = open_port()
    assert again != port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, port), timeout=20)
    socket.create_connection((LOOPBACK, again), timeout=20).close()


def test_ranks_on_several_machines_have_the_store_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    assert store_of_one_machine(0, 2, TIMEOUT) is None
