"""Deprecated names warn again in each test."""

from __future__ import annotations

import pytest

from raytrainer.arguments import aliases


@pytest.fixture(autouse=True)
def forget_warnings() -> None:
    """Each test starts as if no deprecated name had been used in this process."""
    aliases._warned.clear()
