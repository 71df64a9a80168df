"""Where ranks meet, and by which network interface."""

from __future__ import annotations

import os

import psutil
import pytest

from raytrainer.driver import rendezvous


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


def test_an_interface_that_the_user_names_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "bond0")
    rendezvous.note_address("10.0.0.1", 29500, is_spread=True)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "bond0"


def test_an_address_that_no_interface_has_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "node_address", lambda: "203.0.113.7")
    rendezvous.note_address("203.0.113.7", 29500, is_spread=True)
    assert "GLOO_SOCKET_IFNAME" not in os.environ
