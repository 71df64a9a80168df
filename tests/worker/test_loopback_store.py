"""Ranks of one machine meet at a port that other machines cannot reach."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta
from typing import Any

import psutil
import pytest
import torch.distributed as dist

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


def test_a_rank_that_is_ahead_of_rank_0_does_not_leave_the_wait_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch tries again after a quarter of a second at the earliest."""
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        port = found.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", LOOPBACK)
    monkeypatch.setenv("MASTER_PORT", str(port))
    refused = threading.Event()
    connect = socket.create_connection

    def noted(*args: Any, **options: Any) -> socket.socket:
        try:
            return connect(*args, **options)
        except OSError:
            refused.set()
            raise

    is_open: list[bool] = []
    store = dist.TCPStore

    def look(host: str, number: int, *args: Any, is_master: bool, **options: Any) -> dist.TCPStore:
        if not is_master:
            connect((host, number), timeout=20).close()
            is_open.append(True)
        return store(host, number, *args, is_master=is_master, **options)

    monkeypatch.setattr(socket, "create_connection", noted)
    monkeypatch.setattr(dist, "TCPStore", look)
    found_stores: list[dist.Store | None] = []
    ahead = threading.Thread(target=lambda: found_stores.append(store_of_one_machine(1, 2, TIMEOUT)))
    ahead.start()
    assert refused.wait(20)
    first = store_of_one_machine(0, 2, TIMEOUT)
    ahead.join(30)
    assert first is not None
    assert is_open == [True]
    (other,) = found_stores
    assert other is not None
    other.set("key", "value")
    assert first.get("key") == b"value"


def test_a_rank_0_that_never_comes_is_waited_for_no_longer_than_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))  # and does not listen
        monkeypatch.setenv("MASTER_ADDR", LOOPBACK)
        monkeypatch.setenv("MASTER_PORT", str(found.getsockname()[1]))
        with pytest.raises(dist.DistNetworkError):
            store_of_one_machine(1, 2, timedelta(seconds=0.2))


def test_ranks_on_several_machines_have_the_store_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    assert store_of_one_machine(0, 2, TIMEOUT) is None
