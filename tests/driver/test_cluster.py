"""What is said about a Ray before it is joined or started, and what becomes of one that died; a stand-in for Ray."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from raytrainer.driver import cluster, own_raylet
from raytrainer.driver.tokens import warn_of_empty_mode
from raytrainer.errors import ConfigurationError


@pytest.mark.parametrize(
    ("mode", "is_told"), [("", True), (None, False), ("token", False), ("disabled", False)]
)
def test_an_empty_mode_switches_authentication_off_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: str | None, is_told: bool
) -> None:
    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    else:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    warn_of_empty_mode()
    assert ("switches authentication off" in caplog.text) == is_told


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of Ray, which this process has joined and which has died."""
    found: list[str] = []

    def shutdown() -> None:
        found.append("shutdown")

    monkeypatch.setattr(ray, "is_initialized", lambda: "shutdown" not in found)
    monkeypatch.setattr(ray, "shutdown", shutdown)
    monkeypatch.setattr(ray, "init", lambda **options: found.append(f"init {options['address']}"))
    monkeypatch.setattr(own_raylet, "is_gone", lambda: True)
    monkeypatch.setattr(cluster, "_import_ray_train", lambda: None)
    monkeypatch.setattr(cluster, "_session", lambda: "session_1")
    monkeypatch.setattr(cluster, "_joined_here", set())
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return found


@pytest.mark.parametrize(
    ("asked", "is_told"),
    [("10.0.0.9:7777", True), ("localhost:6379", False), ("auto", False), (None, False), ("local", True)],
)
def test_an_address_that_does_not_count_because_the_process_has_joined_another_ray_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asked: str | None, is_told: bool
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:6379"))
    monkeypatch.setattr(own_raylet, "is_gone", lambda: False)
    monkeypatch.setattr(cluster, "is_private", lambda: False)
    assert not cluster.connect(asked).is_private
    assert (
        f"ray_address={asked!r} is not used: this process has joined the Ray at 127.0.0.1:6379" in caplog.text
    ) == (is_told)


def test_a_dead_ray_that_was_started_here_makes_way_for_another_one(calls: list[str]) -> None:
    cluster._joined_here.add("session_1")
    cluster.connect()
    assert calls == ["shutdown", "init local"]


def test_a_dead_ray_that_the_script_started_is_left_to_it(calls: list[str]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"its raylet was killed or crashed\. Call ray\.shutdown\(\)"
    ):
        cluster.connect()
    assert calls == []


SECRET = "5ecret" * 10


@pytest.mark.parametrize(
    ("environment", "sends"),
    [
        ({}, "this process has none"),
        ({"RAY_AUTH_MODE": "disabled"}, "sends none, because RAY_AUTH_MODE is disabled"),
        ({"RAY_AUTH_TOKEN": SECRET}, "sends that of RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN_PATH": "/a/file"}, "sends that in /a/file, which RAY_AUTH_TOKEN_PATH names"),
    ],
)
def test_a_cluster_that_listens_and_cannot_be_joined_may_want_a_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], sends: str
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def refused(**options: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "init", refused)
    with socket.create_server(("127.0.0.1", 0)) as head, pytest.raises(ConfigurationError) as told:
        cluster._join(f"127.0.0.1:{head.getsockname()[1]}", {})
    assert sends in str(told.value)
    assert "ray get-auth-token" in str(told.value)
    assert SECRET not in str(told.value)


def test_where_nobody_listens_no_token_is_named() -> None:
    with pytest.raises(ConfigurationError, match="No Ray cluster answers") as told:
        cluster._join("127.0.0.1:1", {})
    assert "token" not in str(told.value)
