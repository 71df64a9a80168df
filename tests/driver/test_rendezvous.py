"""Where ranks meet, and by which network interface."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, cast

import psutil
import pytest

from raytrainer.driver import rendezvous
from raytrainer.worker.meeting_port import close_port


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME", "TORCH_CPP_LOG_LEVEL"):
        monkeypatch.setenv(name, "to be removed")
        monkeypatch.delenv(name)
    monkeypatch.setattr(rendezvous, "node_address", lambda: "127.0.0.1")


def loopback() -> str:
    return next(
        name
        for name, found in psutil.net_if_addrs().items()
        if "127.0.0.1" in {each.address for each in found}
    )


def test_ranks_on_several_nodes_use_the_interface_that_has_their_nodes_address() -> None:
    rendezvous.note_address("10.0.0.1", 29500, is_spread=True)
    assert os.environ["GLOO_SOCKET_IFNAME"] == loopback()


def test_ranks_on_one_node_meet_on_its_loopback() -> None:
    rendezvous.note_address("10.0.0.1", 29500, is_spread=False)
    assert os.environ["GLOO_SOCKET_IFNAME"] == loopback()
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"


class RanksHere:
    """A group of Ray Train whose ranks are all this process.

    Args:
        addresses: Of their nodes.
    """

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    def execute(self, function: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
        if function is rendezvous.node_address:
            return self._addresses
        return [function(*args, **options) for _ in self._addresses]

    def execute_single(self, rank: int, function: Callable[..., Any]) -> Any:
        assert rank == 0
        return function()


def is_open_after_start(addresses: list[str]) -> bool:
    settings = rendezvous.Rendezvous("gloo")
    settings.backend_cls().on_start(cast("Any", RanksHere(addresses)), settings)
    try:
        socket.create_connection(("127.0.0.1", int(os.environ["MASTER_PORT"])), timeout=20).close()
    except ConnectionRefusedError:
        return False
    finally:
        close_port()
    return True


def test_the_port_of_ranks_on_one_node_is_open_before_any_of_them_is_called() -> None:
    assert is_open_after_start(["10.0.0.1", "10.0.0.1"])
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"


def test_that_of_ranks_on_several_nodes_is_opened_by_torch() -> None:
    assert not is_open_after_start(["10.0.0.1", "10.0.0.2"])
    assert os.environ["MASTER_ADDR"] == "10.0.0.1"


def test_nodes_whose_first_is_reached_at_the_loopback_meet_at_an_open_port() -> None:
    assert is_open_after_start(["127.0.0.1", "127.0.0.2"])


def test_an_interface_that_the_user_names_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "bond0")
    rendezvous.note_address("10.0.0.1", 29500, is_spread=True)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "bond0"


def test_an_address_that_no_interface_has_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "node_address", lambda: "203.0.113.7")
    rendezvous.note_address("203.0.113.7", 29500, is_spread=True)
    assert "GLOO_SOCKET_IFNAME" not in os.environ
