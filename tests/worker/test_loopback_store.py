"""Ranks of one machine meet at a port that other machines cannot reach."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta

import psutil
import pytest

from raytrainer.worker.loopback_store import LOOPBACK, store_of_one_machine

TIMEOUT = timedelta(seconds=20)


@pytest.mark.timeout(60)
def test_the_store_of_one_machine_listens_on_the_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        port = found.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", LOOPBACK)
    monkeypatch.setenv("MASTER_PORT", str(port))
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


def test_ranks_on_several_machines_have_the_store_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    assert store_of_one_machine(0, 2, TIMEOUT) is None
