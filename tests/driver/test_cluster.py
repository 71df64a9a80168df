"""What is said about a Ray before it is joined or started."""

from __future__ import annotations

import pytest

from raytrainer.driver.cluster import warn_of_empty_mode


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
