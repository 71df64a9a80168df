"""Old names warn anew in each test."""

from __future__ import annotations

import pytest

from raytrainer.arguments import aliases


@pytest.fixture(autouse=True)
def forget_warnings() -> None:
    """Each test sees the first use of an old name in a process."""
    aliases._warned.clear()
