"""A Ray that only this machine reaches: while it is started, Ray takes the loopback for the address of its node.

By default the processes of a local Ray listen on all interfaces. Ray has a switch for the loopback, made for systems
without clusters, which it reads from a variable when it is imported. Processes that Ray starts import it anew; in this
process the switch is set where Ray keeps it. If that place is gone one day, Ray listens as it does by default.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from typing import Any

_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextlib.contextmanager
def on_loopback() -> Generator[None]:
    """A Ray that is started within the block listens on the loopback, unless the variable says otherwise."""
    if _VARIABLE in os.environ:
        yield
        return
    constants = _constants()
    before: object = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    os.environ[_VARIABLE] = "0"
    if before is not None:
        constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        # This process may join a cluster later.
        del os.environ[_VARIABLE]
        if before is not None:
            constants.ENABLE_RAY_CLUSTER = before


def _constants() -> Any:
    import ray

    return getattr(getattr(ray, "_private", None), "ray_constants", None)
